"""Checks translated settings as a stage checks its config, without reading a model, data or the machine."""

from dataclasses import replace
from pkgutil import resolve_name

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from hfkit.commands.init.foreign import ForeignConfig
from hfkit.commands.init.settings import StageSettings
from hfkit.config.online import OnlineConfig
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES, spec_of_config
from hfkit.config.stages import PPOConfig
from hfkit.config.validation import top_level_key
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.data.built_in_templates import BUILT_IN_TOKENS
from hfkit.stages.checks.adapters import adapter_problems
from hfkit.stages.checks.effects import effect_problems
from hfkit.stages.checks.groups import group_rules
from hfkit.stages.checks.hub import hub_problems
from hfkit.stages.checks.numbers import number_problems
from hfkit.stages.checks.ppo import ppo_rules
from hfkit.stages.checks.rewards import function_rules
from hfkit.stages.checks.rules import broken_rules
from hfkit.stages.checks.trainer import IN_BACKWARD, trainer_problems
from hfkit.stages.checks.vllm import effect_of_keys

IMPLIED = "default of "
"""Start of the reason of a setting that is a default of the other tool."""
OF_THE_MACHINE = ("deepspeed", "tf32", "ddp_backend")
"""Settings that may fail here, and not where the model is trained."""
OF_THE_LAUNCH = ("num_generations", "total_episodes")
"""Settings that must fit the rows of a batch, and so the number of processes: they are reported, and kept."""
USABLE_OPTIMIZERS = {one.value for one in OptimizerNames if not one.value.endswith(IN_BACKWARD)}
ELSEWHERE = {"optim": USABLE_OPTIMIZERS, "report_to": {*INTEGRATION_TO_CALLBACK}, "bf16": {True}, "fp16": {True}}
"""Values that need a package or a GPU, which this machine may lack."""


def refuse_settings(config: ForeignConfig, settings: StageSettings) -> list[Problem]:
    """Remove the settings that the stage refuses, and return why, with the keys and values of the other tool.

    A refused default of the other tool is removed without a problem: it has no effect with the other settings.
    """
    refused: dict[str, Problem] = {}
    while problems := setting_problems(config.stage, settings):
        removed = False
        for problem in problems:
            ours = top_level_key(problem.key)
            setting = None if ours in OF_THE_LAUNCH else settings.pop(ours, None)
            removed |= setting is not None
            theirs = setting.why if setting and setting.why else ours
            if not theirs.startswith(IMPLIED):
                value = config.given.get(theirs, problem.value) if problem.key == ours else problem.value
                refused.setdefault(theirs, replace(problem, key=problem.key.replace(ours, theirs, 1), value=value))
        if not removed:  # a key that is required, a default of hfkit that does not fit, or one that fits more processes
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
    found += [] if config.push_to_hub else hub_problems(config)
    if isinstance(config, OnlineConfig):
        rules = ppo_rules(config) if isinstance(config, PPOConfig) else group_rules(config)
        found += broken_rules(config, rules + function_rules(config)) + effect_of_keys(config)
    elif spec.checks and spec.form == "comparisons":  # those of pretraining read models
        found += resolve_name(spec.checks)(config)
    return found + trainer_problems_anywhere(config, {problem.key for problem in found})


def trainer_problems_anywhere(config, reported: set[str]) -> list[Problem]:
    """Return the settings that the trainer's arguments refuse on any machine, and that are not reported yet."""
    extra = {key: value for key, value in config.extra.items() if key not in OF_THE_MACHINE}
    trackers = "none" if fits_elsewhere("report_to", config.report_to) else config.report_to
    if not extra and config.optim is None and config.lr_scheduler_type == "linear" and trackers == "none":
        return []  # other settings have their own checks
    return [
        problem
        for problem in trainer_problems(replace(config, extra=extra, report_to=trackers))
        if problem.key not in reported and (problem.keys or not fits_elsewhere(problem.key, problem.value))
    ]


def fits_elsewhere(key: str, value: object) -> bool:
    """Return whether a value may only need what this machine lacks."""
    return all(one in ELSEWHERE.get(key, ()) for one in (value if isinstance(value, list) else [value]))


def template_problem(config) -> list[Problem]:
    """Return the problem of a name of a chat template that only the other tool has."""
    name = getattr(config, "chat_template", None)
    if name is None or name in BUILT_IN_TOKENS or name.endswith(".jinja") or "/" in name:
        return []
    remedy = f"the tokenizer's own template is used; to set another one, name one of {', '.join(BUILT_IN_TOKENS)}"
    return [Problem("chat_template", name, f"{remedy}, or a Jinja file")]
