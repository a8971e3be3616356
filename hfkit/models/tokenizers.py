"""Loads tokenizers with their chat template and a pad token."""

import datetime
from functools import cache
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hfkit.core.console import warn
from hfkit.core.errors import HfkitError, reason
from hfkit.core.files import file_hash, read_text
from hfkit.core.hub_fetch import local_folder
from hfkit.core.hub_files import TOKENIZER_FILES
from hfkit.data.built_in_templates import BUILT_IN_TOKENS, read_built_in, tokens_fault
from hfkit.data.rendering import TODAY, require_usable, set_template_kwargs, template_variables, writes_today
from hfkit.data.system_prompt import set_system_prompt, system_prompt_of
from hfkit.models.tokenizer_bounds import tokenizer_fault
from hfkit.records.source import Source, find_file, read_json

# Tokens of common vocabularies that never occur in a conversation, in order of preference for padding.
PAD_CANDIDATES = (
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<unk>",
    "<|endoftext|>",
)


OWN_TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
"""A folder with one of these files has a tokenizer."""
PROCESSOR_TEMPLATE = "chat_template.json"
"""The file in which older multimodal models have their chat template. Transformers reads it for processors only."""
READ_FILES = (*OWN_TOKENIZER, "chat_template.jinja", PROCESSOR_TEMPLATE)


class PadTokenError(HfkitError):
    """A tokenizer has no token to pad with besides its EOS, or lacks the chosen one."""


class TemplateError(HfkitError):
    """A tokenizer has no chat template with the chosen name, or several and no default; `fault` lacks the key."""

    def __init__(self, fault: str, key: str = "chat_template: "):
        super().__init__(f"{key}{fault}")
        self.fault = fault


def read_tokenizer(
    path: str,
    revision: str = "main",
    chat_template: str | None = None,
    chat_template_kwargs: dict | None = None,
    system_prompt: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, whatever its pad token; for an adapter without one, that of its base.

    Args:
        chat_template: a Jinja file, the name of one of the tokenizer's templates, or of a built-in one.
        chat_template_kwargs: variables of the template, saved with the tokenizer.
        system_prompt: system text of conversations without one, saved with the tokenizer; None: the saved one; "": none
            at all.

    Raises:
        TemplateError: the tokenizer has several templates, but no default, and none is chosen.
        UnusableTemplateError: a template is not Jinja, or takes too much time or memory.
        SystemPromptError: its chat template does not write the system prompt.
        HfkitError: the tokenizer cannot be read or has no EOS, or the date is invalid.
    """
    source = Source.of(path, revision)
    if source.adapter and not any(find_file(source.path, name, source.revision) for name in OWN_TOKENIZER):
        path, revision = source.base, source.base_revision
    folder = local_folder(path, revision, TOKENIZER_FILES)
    if fault := tokenizer_fault(Path(folder)):
        raise HfkitError(f"the tokenizer of {path} cannot be used: {fault}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # libraries raise many types for a broken folder
        raise HfkitError(f"the tokenizer of {path} cannot be read: {reason(error)}") from error
    if tokenizer.eos_token is None:
        raise HfkitError(f"the tokenizer of {path} has no EOS token to end a text: set eos_token in its config")
    template = (read_json(folder, PROCESSOR_TEMPLATE) or {}).get("chat_template")
    if not tokenizer.chat_template and isinstance(template, str):
        tokenizer.chat_template = template
    recorded = system_prompt_of(tokenizer)
    choose_template(tokenizer, path, chat_template)
    require_usable(tokenizer, path if chat_template is None else chat_template)
    if system_prompt is not None or (recorded and chat_template is not None):
        set_system_prompt(tokenizer, recorded or "" if system_prompt is None else system_prompt)
    try:
        set_template_kwargs(tokenizer, chat_template_kwargs)
    except ValueError as error:
        raise HfkitError(f"chat_template_kwargs: {TODAY} is not a date (YYYY-MM-DD): {error}") from error
    if getattr(tokenizer, "chat_control_tokens", None) is None:
        # Special tokens in messages are text (see chat_template.py); tokens such as <think> in a response stay tokens.
        tokenizer.chat_control_tokens = []
    return tokenizer


def choose_template(tokenizer: PreTrainedTokenizerBase, path: str, chosen: str | None) -> None:
    """Set a tokenizer's chat template: the chosen file or name, else its default, else one with "chat" in its name.

    A name is looked up among the tokenizer's templates first, then among the built-in ones.

    A template named `tool_use` is kept with the default, because Transformers uses it for conversations with tools.

    Raises:
        TemplateError: there is no such template, or several and no default.
    """
    own = tokenizer.chat_template
    named = own if isinstance(own, dict) else {}
    if chosen is not None and (chosen not in named or Path(chosen).is_file()):
        if Path(chosen).is_file():
            try:
                tokenizer.chat_template = read_text(Path(chosen))
            except (OSError, ValueError) as error:
                raise TemplateError(f"{chosen} cannot be read: {reason(error)}") from error
            return
        if chosen not in BUILT_IN_TOKENS:
            names = f"the tokenizer of {path} has {', '.join(named)}" if named else f"{path} has no named templates"
            raise TemplateError(f"{chosen} is not a file, and {names}; built in: {', '.join(BUILT_IN_TOKENS)}")
        if fault := tokens_fault(chosen, tokenizer.get_vocab()):
            raise TemplateError(fault)
        tokenizer.chat_template = read_built_in(chosen)
    elif chosen is not None:
        tokenizer.chat_template = named[chosen]
    elif named and "default" not in named:
        names = [*named] if len(named) == 1 else sorted((name for name in named if "chat" in name.lower()), key=len)
        if not names:
            remedy = f"set chat_template to {' or '.join(named)}"
            raise TemplateError(f"{path} has chat templates but no default: {remedy}", key="")
        tokenizer.chat_template = {"default": named[names[0]], **named}


def tokenizer_source(config) -> tuple[str | None, str]:
    """Return path and revision of a stage's tokenizer: by default those of its model."""
    return getattr(config, "tokenizer_source", (config.model_name_or_path, config.model_revision))


def load_stage_tokenizer(config) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a stage's config names, see `load_tokenizer`.

    Raises:
        HfkitError: the chat template does not read a variable in `chat_template_kwargs`.
    """
    path, revision = tokenizer_source(config)
    options = (config.chat_template, config.chat_template_kwargs, config.system_prompt)
    tokenizer = load_tokenizer(path, revision, config.pad_token, *options)
    if fault := variables_fault(tokenizer, config.chat_template_kwargs):
        raise HfkitError(fault)
    if tokenizer.chat_template and writes_today(tokenizer):
        remedy = (
            f"set chat_template_kwargs: {{{TODAY}: {datetime.date.today()}}} to keep one date in this run and later"
        )
        warn(f"the chat template of {path} writes today's date, so the tokens of rows change every day: {remedy}")
    return tokenizer


def variables_fault(tokenizer: PreTrainedTokenizerBase, given: dict) -> str | None:
    """Return which of the variables in `chat_template_kwargs` a tokenizer's chat template does not read, or None."""
    known = template_variables(tokenizer)
    unknown = [name for name in given if name not in known]
    if not unknown:
        return None
    read = f"it reads {', '.join(sorted(known))}" if known else "it reads none"
    return f"chat_template_kwargs: the chat template has no variable {', '.join(unknown)}; {read}"


def load_tokenizer(
    path: str,
    revision: str = "main",
    pad_token: str | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: dict | None = None,
    system_prompt: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, with a pad token that is not its EOS.

    With pad == EOS, masks of the pad token also mask the EOS, and the model never learns to stop. The pad token is in
    the vocabulary, so the embedding does not grow.

    Raises:
        PadTokenError: there is no token to pad with.
        HfkitError: as `read_tokenizer`.
    """
    tokenizer = read_tokenizer(path, revision, chat_template, chat_template_kwargs, system_prompt)
    vocabulary = tokenizer.get_vocab()
    if pad_token is None and tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return tokenizer
    usable = [token for token in PAD_CANDIDATES if token in vocabulary and token != tokenizer.eos_token]
    pad_token = pad_token or next(iter(usable), None)
    if pad_token is None or pad_token not in vocabulary or pad_token == tokenizer.eos_token:
        raise PadTokenError(
            f"{path} has no token to pad with besides its EOS {tokenizer.eos_token!r} (pad_token: {pad_token}): set "
            "pad_token to a token of its vocabulary that your texts never contain"
        )
    tokenizer.pad_token = pad_token
    return tokenizer


def cached_tokenizer(path: str, revision: str, pad_token: str | None, chat_template: str | None = None):
    """Return the tokenizer at a path, which no caller changes; load it once while its files are unchanged."""
    source = Source.of(path, revision)
    files = [Path(folder) / name for folder in (source.path, source.base) for name in READ_FILES]
    files += [Path(chat_template)] if chat_template else []
    state = [file_hash(file) for file in files if file.is_file()]
    return _cached_tokenizer(path, revision, pad_token, chat_template, source.base, *state)


@cache
def _cached_tokenizer(path: str, revision: str, pad_token: str | None, chat_template: str | None, *_state: str):
    return load_tokenizer(path, revision, pad_token, chat_template)
