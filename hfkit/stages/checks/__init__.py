"""Validates a stage's config before any weight is loaded: contradictions between its keys, and what they name."""

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, replace
from pkgutil import resolve_name

from transformers.integrations import get_reporting_integration_callbacks

from hfkit.config.fields import ModelFields, OutputFields, SourceFields
from hfkit.config.registry import spec_of_config
from hfkit.config.validation import EXTRA, default_of
from hfkit.core.errors import Problem, reason
from hfkit.hub.cards.licenses import license_problems
from hfkit.stages.checks.architecture import architecture_problems, find_model_config
from hfkit.stages.checks.data import data_problems
from hfkit.stages.checks.files import folder_problems, template_problems
from hfkit.stages.checks.hub import hub_problems
from hfkit.stages.checks.models import adapter_problems, model_problems
from hfkit.stages.checks.numbers import number_problems
from hfkit.stages.checks.processes import process_problems
from hfkit.training.arguments import trainer_arguments


def problems_of(config) -> list[Problem]:
    """Return every problem of a config; this reads configs and tokenizers, never weights."""
    spec = spec_of_config(config)
    problems = process_problems(config) + number_problems(config) + template_problems(config)
    if isinstance(config, OutputFields):
        problems += folder_problems(config) + hub_problems(config) + license_problems(config.license)
    if isinstance(config, SourceFields):
        problems += data_problems(config)
    if isinstance(config, ModelFields):
        problems += adapter_problems(config) + model_problems(config)
        problems += architecture_problems(config, find_model_config(config))
    if spec and spec.checks:
        problems += resolve_name(spec.checks)(config)
    reported = {problem.key for problem in problems}
    if isinstance(config, OutputFields):
        problems += [problem for problem in trainer_problems(config) if problem.key not in reported]
    return problems


def trainer_problems(config) -> list[Problem]:
    """Return the settings that the trainer's own config class refuses, each with the reason that the library gives.

    A setting is at fault if the trainer's arguments no longer fail with the same error once it has its default. Where
    several are, as two that contradict each other, the problem is under the last one and names the others.
    """
    error = trainer_error(config)
    if error is None:
        return []
    settings = {**vars(config), **config.extra}
    *others, key = [name for name in settings if trainer_error(with_default(config, name)) != error] or ["trainer"]
    problem = Problem(key, settings.get(key), error, keys=(*others,))
    return [problem] if key == "trainer" else [problem, *trainer_problems(with_default(config, key))]


def trainer_error(config) -> str | None:
    """Return why the trainer's arguments cannot be made of a config, or None if they can."""
    if config.trainer_config_class() is None:
        return None
    try:
        arguments = trainer_arguments(config)
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()  # fails where the tracker's package is not installed
    except Exception as error:  # libraries raise errors of any kind
        return reason(error)
    return None


def with_default(config, key: str):
    """Return a copy of a config in which one setting, a field or a key of `extra`, has its default if there is one."""
    if key in config.extra:
        return replace(config, extra={name: value for name, value in config.extra.items() if name != key})
    defaults = {field.name: default_of(field) for field in fields(config) if field.name == key != EXTRA}
    return replace(config, **{name: default for name, default in defaults.items() if default is not NO_DEFAULT})
