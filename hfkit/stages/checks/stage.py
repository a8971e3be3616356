"""Runs the checks of all keys of a stage's config."""

from pkgutil import resolve_name

from hfkit.config.fields import ModelFields, SourceFields
from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.hub.cards.licenses import license_problems
from hfkit.stages.checks.adapters import adapter_problems
from hfkit.stages.checks.architecture import architecture_problems, find_model_config
from hfkit.stages.checks.data import data_problems
from hfkit.stages.checks.effects import effect_problems
from hfkit.stages.checks.files import folder_problems, template_problems
from hfkit.stages.checks.hub import hub_problems
from hfkit.stages.checks.kernels import kernel_problems
from hfkit.stages.checks.models import model_problems
from hfkit.stages.checks.numbers import number_problems
from hfkit.stages.checks.processes import process_problems
from hfkit.stages.checks.trainer import trainer_problems


def problems_of(config) -> list[Problem]:
    """Return every problem of a stage's config; only configs and tokenizers are read, never weights."""
    spec = spec_of_config(config)
    problems = process_problems(config) + number_problems(config) + template_problems(config)
    problems += folder_problems(config) + hub_problems(config) + license_problems(config.license)
    if isinstance(config, SourceFields):
        problems += data_problems(config)
    if isinstance(config, ModelFields):
        problems += adapter_problems(config) + model_problems(config) + kernel_problems(config)
        problems += architecture_problems(config, find_model_config(config))
    if spec.checks:
        problems += resolve_name(spec.checks)(config)
    reported = {problem.key for problem in problems}
    found = effect_problems(config) + trainer_problems(config)
    return problems + [problem for problem in found if problem.key not in reported]
