"""The checks of a config: those that import heavy libraries run last, and only if no input is missing."""

from importlib import import_module

from hfkit.config.parsing import Check
from hfkit.config.registry import STAGES
from hfkit.core.console import announce_libraries
from hfkit.core.errors import Problem
from hfkit.stages.checks.numbers import number_problems

EVALUATION_CHECKS, STAGE_CHECKS = "hfkit.evaluation.checks", "hfkit.stages.checks.stage"
"""The modules that validate the config of an evaluation, and that of a stage."""
OTHER_CHECKS = {"label": "hfkit.commands.label.checks"}
"""The module that validates such a config, by verb; it imports no heavy library."""


def config_checks(verb: str) -> Check:
    """Return the checks of the config of an evaluation or a stage; heavy libraries load only if no input is missing."""
    module = OTHER_CHECKS.get(verb, STAGE_CHECKS if verb in STAGES else EVALUATION_CHECKS)

    def check(config) -> list[Problem]:
        if missing := import_module("hfkit.commands.missing_inputs").problems_of(config):
            return missing + (number_problems(config) if verb in STAGES else [])
        if verb not in OTHER_CHECKS:
            announce_libraries()
        return import_module(module).problems_of(config)

    return check
