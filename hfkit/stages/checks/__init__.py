"""Validates a stage's config before any weights are loaded: contradictory keys, and missing or unfit inputs."""

from pkgutil import resolve_name

from hfkit.core.errors import Problem


def problems_of(config) -> list[Problem]:
    """Return every problem of a config; only configs and tokenizers are read, never weights.

    The other modules of this package load in a second; `stage.py` imports torch and Transformers' Trainer.
    """
    return resolve_name("hfkit.stages.checks.stage:problems_of")(config)
