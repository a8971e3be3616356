"""Loads the tokenizer for the data, and chooses a chat template for a model without one."""

from hfkit.commands.init.settings import Setting, StageSettings
from hfkit.core.console import say
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.core.hub_ids import split_revision
from hfkit.data.built_in_templates import BUILT_IN_TOKENS, tokens_fault
from hfkit.models.tokenizers import PadTokenError, load_tokenizer

PLAIN = "zephyr"
"""A built-in chat template without special tokens."""
TOKENIZER_KEYS = ("pad_token", "chat_template", "chat_template_kwargs")
"""Keys that change the tokenizer: the first stage sets them, and saves the result."""


def tokenizer_of(model: str, given: dict[str, StageSettings]) -> tuple[object, StageSettings]:
    """Return the tokenizer of a model, and the settings that it needs in addition to the flags.

    A model without a chat template gets a built-in one.

    Raises:
        ConfigError: it has no token to pad with.
        HfkitError: it cannot be read.
    """
    options = {key: one[key].value for one in given.values() for key in TOKENIZER_KEYS if key in one}
    path, revision = split_revision(model, "main")
    try:
        tokenizer = load_tokenizer(path, revision, **options)
        if tokenizer.chat_template:
            return tokenizer, {}
        template = template_for(tokenizer)
        say(f"{model} has no chat template: the stages use {template}")
        chosen = {"chat_template": Setting(template, "the model has none")}
        return load_tokenizer(path, revision, **options, chat_template=template), chosen
    except PadTokenError as error:
        raise ConfigError([Problem("--pad_token", options.get("pad_token", MISSING), str(error))]) from error


def template_for(tokenizer) -> str:
    """Return the built-in chat template whose tokens a tokenizer has, or else the one with markers as plain text."""
    vocabulary = tokenizer.get_vocab()
    return next(
        (name for name, tokens in BUILT_IN_TOKENS.items() if tokens and not tokens_fault(name, vocabulary)), PLAIN
    )
