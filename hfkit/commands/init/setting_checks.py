"""Checks translated settings as a stage checks its config, without reading a model, data or the machine."""

from dataclasses import replace
from pkgutil import resolve_name

from hfkit.commands.init.foreign import ForeignConfig
from hfkit.commands.init.settings import StageSettings
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES, spec_of_config
from hfkit.config.validation import top_level_key
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.data.built_in_templates import BUILT_IN_TOKENS
from hfkit.stages.checks.adapters import adapter_problems
from hfkit.stages.checks.effects import effect_problems
from hfkit.stages.checks.numbers import number_problems

IMPLIED = "default of "
"""Start of the reason of a setting that is a default of the other tool."""


def refuse_settings(config: ForeignConfig, settings: StageSettings) -> list[Problem]:
    """Remove the settings that the stage refuses, and return why, with the keys and values of the other tool.

    A refused default of the other tool is removed without a problem: it has no effect with the other settings.
    """
    refused: dict[str, Problem] = {}
    while problems := setting_problems(config.stage, settings):
        removed = False
        for problem in problems:
            ours = top_level_key(problem.key)
            setting = settings.pop(ours, None)
            removed |= setting is not None
            theirs = setting.why if setting and setting.why else ours
            if not theirs.startswith(IMPLIED):
                value = config.given.get(theirs, problem.value) if problem.key == ours else problem.value
                refused.setdefault(theirs, replace(problem, key=problem.key.replace(ours, theirs, 1), value=value))
        if not removed:  # a key that is required, or a default of hfkit that does not fit
            break
    return [*refused.values()]


def setting_problems(stage: str, settings: StageSettings) -> list[Problem]:
    """Return the problems of settings, by the stage's own checks."""
    given = {"output_dir": "runs", "model_name_or_path": "model", **{key: one.value for key, one in settings.items()}}
    try:
        load_config(STAGES[stage].config_class, given, problems_of_values)
        return []
    except ConfigError as error:
        return [one for one in error.problems if one.value is not MISSING or one.key in settings]


def problems_of_values(config) -> list[Problem]:
    """Return the problems of a config that do not depend on files, models or the machine."""
    spec = spec_of_config(config)
    found = number_problems(config) + adapter_problems(config) + effect_problems(config) + template_problem(config)
    if spec.checks and spec.form == "comparisons":  # those of other stages read models
        found += resolve_name(spec.checks)(config)
    if spec.samples_replies and config.lora_dropout:
        found.append(Problem("lora_dropout", config.lora_dropout, "hfkit samples and trains without dropout"))
    return found


def template_problem(config) -> list[Problem]:
    """Return the problem of a name of a chat template that only the other tool has."""
    name = getattr(config, "chat_template", None)
    if name is None or name in BUILT_IN_TOKENS or name.endswith(".jinja") or "/" in name:
        return []
    remedy = f"the tokenizer's own template is used; to set another one, name one of {', '.join(BUILT_IN_TOKENS)}"
    return [Problem("chat_template", name, f"{remedy}, or a Jinja file")]
