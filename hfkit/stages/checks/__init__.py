"""What can be told to be wrong before any weight is loaded: contradictions in a config and with what it names."""

import re

from transformers.integrations import get_reporting_integration_callbacks

from hfkit.config.fields import SourceFields
from hfkit.config.stages import PPOConfig
from hfkit.core.errors import Problem, reason
from hfkit.hub.cards.licenses import license_problems
from hfkit.stages.checks.data import data_problems
from hfkit.stages.checks.files import folder_problems, template_problems
from hfkit.stages.checks.hub import hub_problems
from hfkit.stages.checks.models import adapter_problems, model_problems
from hfkit.stages.checks.numbers import number_problems
from hfkit.stages.checks.ppo import ppo_problems
from hfkit.training.arguments import trainer_arguments


def problems_of(config) -> list[Problem]:
    """Every problem of a config; reads configs and tokenizers, never weights."""
    problems = folder_problems(config) + number_problems(config) + template_problems(config) + hub_problems(config)
    problems += license_problems(config.license)
    if isinstance(config, SourceFields):
        problems += data_problems(config)
    if hasattr(config, "use_peft"):
        problems += adapter_problems(config) + model_problems(config)
    if isinstance(config, PPOConfig):
        problems += ppo_problems(config)
    told = {problem.key for problem in problems}
    return problems + [problem for problem in trainer_problems(config) if problem.key not in told]


def trainer_problems(config) -> list[Problem]:
    """What the trainer's own config refuses: told now, and not when the rows are ready and the folder is made."""
    if config.trainer_config_class() is None:
        return []

    try:
        arguments = trainer_arguments(config)
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()  # which says so where its package is not installed
    except Exception as error:  # whatever a library says of its settings
        settings = {**vars(config), **config.extra}
        words = re.findall(r"\w+", str(error))
        named = [word for word in words if word in settings]
        quoted = [key for key, value in settings.items() if isinstance(value, str) and value and value in str(error)]
        key = (named or quoted or ["trainer"])[0]
        return [Problem(key, settings.get(key), reason(error))]
    return []
