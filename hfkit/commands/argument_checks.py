"""Checks of a command line that need no heavy library, so that a mistake is reported before torch is imported."""

import os
from argparse import Namespace

from hfkit.commands.missing_inputs import missing_folder
from hfkit.commands.serve.names import name_models
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.hub_fetch import require_model
from hfkit.core.hub_ids import split_revision
from hfkit.core.missing_paths import no_such
from hfkit.core.yaml import read_yaml

MODELS_TO_FIND = {
    "chat": ("model", "against", "adapter"),
    "merge": ("adapter", "base"),
    "export": ("model", "base"),
    "serve": ("models",),
}
"""The arguments of a verb that name a model or several; `--revision`, if there is one, applies to the first."""
YAMLS_TO_READ = ("config", "pipeline")
"""The arguments that name a YAML."""


def check_arguments(verb: str, given: Namespace) -> None:
    """Raise an error if a YAML cannot be read, a model is neither in a folder nor on the Hub, or a template is missing.

    Args:
        given: as `read_arguments` returns it.

    Raises:
        ConfigError: a YAML or a template is missing, or a YAML is not a mapping.
        HfkitError: a model is missing.
    """
    for name in YAMLS_TO_READ:
        if path := getattr(given, name, None):
            require_yaml(path)
    for index, name in enumerate(MODELS_TO_FIND.get(verb, ())):
        value = getattr(given, name) or []
        paths = name_models(value).values() if name == "models" else [value] if isinstance(value, str) else value
        for path in paths:
            if fault := missing_folder(path):
                raise HfkitError(f"{path}: {fault}")
            require_model(*split_revision(path, getattr(given, "revision", "main") if index == 0 else "main"))
    template = getattr(given, "chat_template", None)
    if template and (template.endswith(".jinja") or "/" in template) and not os.path.isfile(template):
        raise ConfigError([Problem("--chat_template", template, no_such("file", template))], "the command line")


def require_yaml(path: str) -> None:
    """Raise ConfigError if a file has no YAML mapping; a pipe, which can be read only once, is not read."""
    problems: list[Problem] = []
    if (os.path.isfile(path) or not os.path.exists(path)) and read_yaml(path, problems) is None:
        raise ConfigError(problems, path)
