"""The checks of a config: those that import heavy libraries run last, and only if no input is missing."""

from importlib import import_module

from hfkit.config.parsing import Check
from hfkit.core.console import announce_libraries
from hfkit.core.errors import Problem

CHECKS = {"label": "hfkit.commands.label.checks"}
"""The module that validates such a config, if it is not `hfkit.evaluation.checks`."""


def checks_in(module: str) -> Check:
    """Return a check that imports a module only when it gets a config, and calls the module's `problems_of`."""
    return lambda config: import_module(module).problems_of(config)


def evaluation_checks(verb: str) -> Check:
    """Return the checks of an evaluation's config; those that import heavy libraries only if no input is missing."""

    def check(config) -> list[Problem]:
        if missing := checks_in("hfkit.commands.missing_inputs")(config):
            return missing
        if verb not in CHECKS:
            announce_libraries(verb)
        return checks_in(CHECKS.get(verb, "hfkit.evaluation.checks"))(config)

    return check
