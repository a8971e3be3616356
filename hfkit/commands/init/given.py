"""What flags say about the stages, and the tokenizer that reads the data."""

from hfkit.commands.init.settings import Setting, StageSettings
from hfkit.config.parsing import command_line, group_flags, read_flags
from hfkit.config.registry import STAGES
from hfkit.config.validation import find_hint
from hfkit.core.console import say
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.core.hub_ids import split_revision
from hfkit.data.built_in_templates import BUILT_IN_TOKENS, tokens_fault
from hfkit.models.tokenizers import PadTokenError, load_tokenizer

PLAIN = "zephyr"
TOKENIZER_KEYS = ("pad_token", "chat_template", "chat_template_kwargs")
"""Keys that change the tokenizer: the stage that starts from the model sets them, and its run keeps them."""


def given_settings(flags: list[str], stages: list[str]) -> dict[str, StageSettings]:
    """Return the settings of each stage that flags give: `--seed 1` for all stages that have the key, `--sft.seed 1`.

    Raises:
        ConfigError: a flag is malformed, or no stage has it.
    """
    problems: list[Problem] = []
    settings: dict[str, StageSettings] = {stage: {} for stage in stages}
    for key, words in group_flags(flags, problems):
        stage, _, own = key.rpartition(".")
        wanted = [one for one in stages if stage in ("", one) and has_key(one, own)]
        if not wanted:
            problems.append(Problem(f"--{key}", " ".join(words), f"no key of {stage or ', '.join(stages)}"))
        for one in wanted:
            values = read_flags(STAGES[one].config_class, command_line([(own, words)]), problems)
            settings[one] |= {name: Setting(value, "given") for name, value in values.items()}
    if problems:
        raise ConfigError(problems)
    return settings


def has_key(stage: str, key: str) -> bool:
    """Return whether a stage's config has a key, also as `no_key`."""
    config_class = STAGES[stage].config_class
    return any(find_hint(config_class, name)[0] is not None for name in {key, key.removeprefix("no_")})


def tokenizer_of(model: str, given: dict[str, StageSettings]) -> tuple[object, StageSettings]:
    """Return the tokenizer of a model, and the settings that it needs beside what flags give.

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
        say(f"{model} has no chat template: the stages get {template}")
        chosen = {"chat_template": Setting(template, "the model has none")}
        return load_tokenizer(path, revision, **options, chat_template=template), chosen
    except PadTokenError as error:
        raise ConfigError([Problem("--pad_token", options.get("pad_token", MISSING), str(error))]) from error


def template_for(tokenizer) -> str:
    """Return the built-in chat template whose tokens a tokenizer has, or else one that writes its markers as text."""
    vocabulary = tokenizer.get_vocab()
    return next(
        (name for name, tokens in BUILT_IN_TOKENS.items() if tokens and not tokens_fault(name, vocabulary)), PLAIN
    )
