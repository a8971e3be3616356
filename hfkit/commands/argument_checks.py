"""Checks of a command line that need no heavy library, so that a mistake is reported before torch is imported."""

import os
from argparse import Namespace

from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.hub_fetch import missing_folder_error, require_model
from hfkit.core.hub_ids import split_revision
from hfkit.core.yaml import read_yaml

MODELS_TO_FIND = {"chat": ("model", "against"), "merge": ("adapter",), "export": ("model",)}
"""The arguments of a verb that name models; `--revision` applies to the first."""
YAMLS_TO_READ = ("config", "pipeline")
"""The arguments that name a YAML."""


def check_arguments(verb: str, given: object) -> None:
    """Raise an error if a YAML cannot be read, or if a model is neither in a folder nor on the Hub.

    Args:
        given: as `read_arguments` returns it; configs of stages and evaluations have been checked.

    Raises:
        ConfigError: a YAML is missing, or it is not a mapping.
        HfkitError: a model is missing.
    """
    if not isinstance(given, Namespace):
        return
    for name in YAMLS_TO_READ:
        if path := getattr(given, name, None):
            require_yaml(path)
    for index, name in enumerate(MODELS_TO_FIND.get(verb, ())):
        if path := getattr(given, name):
            require_findable(path, given.revision if index == 0 else "main")


def require_yaml(path: str) -> None:
    """Raise ConfigError if a file has no YAML mapping; a pipe, which can be read only once, is not read."""
    problems: list[Problem] = []
    if (os.path.isfile(path) or not os.path.exists(path)) and read_yaml(path, problems) is None:
        raise ConfigError(problems, path)


def require_findable(path: str, revision: str) -> None:
    """Raise HfkitError if a model is in no folder, not in the Hub's cache, and the Hub cannot be reached."""
    if problem := missing_folder_error(path):
        raise HfkitError(f"{path}: {problem}")
    require_model(*split_revision(path, revision))
