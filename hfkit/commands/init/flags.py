"""Reads the flags of `hfkit init` that set keys of the stages."""

from hfkit.commands.init.settings import Setting, StageSettings
from hfkit.config.parsing import command_line, group_flags, read_flags
from hfkit.config.registry import STAGES
from hfkit.config.validation import find_hint
from hfkit.core.errors import ConfigError, Problem


def given_settings(flags: list[str], stages: list[str]) -> dict[str, StageSettings]:
    """Return the settings of each stage that flags give.

    `--seed 1` applies to all stages that have the key; `--sft.seed 2` applies to one, and replaces that for all.

    Raises:
        ConfigError: a flag is malformed or given twice, or none of the stages has it.
    """
    problems: list[Problem] = []
    for_all: dict[str, list[tuple[str, list[str]]]] = {stage: [] for stage in stages}
    for_one: dict[str, list[tuple[str, list[str]]]] = {stage: [] for stage in stages}
    for key, words in group_flags(flags, problems):
        stage, _, own = key.rpartition(".")
        wanted = [one for one in stages if stage in ("", one) and has_key(one, own)]
        remedy = None if wanted else f"no key of {stage or ', '.join(stages)}"
        if stage and stage not in stages:
            remedy = f"the pipeline's stages are: {', '.join(stages)}"
        elif own == "output_dir":
            remedy = "all stages share the pipeline's folder: set --output_dir"
        if remedy:
            problems.append(Problem(f"--{key}", " ".join(words), remedy))
        for one in wanted:
            (for_one if stage else for_all)[one].append((own, words))
    settings: dict[str, StageSettings] = {}
    for stage in stages:
        values = {}
        for given in (for_all[stage], for_one[stage]):
            values |= read_flags(STAGES[stage].config_class, command_line(given), problems)
        settings[stage] = {name: Setting(value, "given") for name, value in values.items()}
    if problems:  # a flag for all stages is read once per stage
        raise ConfigError(one for index, one in enumerate(problems) if one not in problems[:index])
    return settings


def has_key(stage: str, key: str) -> bool:
    """Return whether a stage's config has a key, or `no_key`."""
    config_class = STAGES[stage].config_class
    return any(find_hint(config_class, name)[0] is not None for name in {key, key.removeprefix("no_")})
