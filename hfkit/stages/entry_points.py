"""The stages as functions for Python code: `hfkit.sft(datasets=rows, model_name_or_path=model, output_dir="out")`.

Each takes a config, or the path of a YAML, or a mapping, and keys that replace its own. Keys take objects as well: see
`as_plain`. What is wrong is raised as a `ConfigError` with all problems before anything is loaded.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import get_args

from datasets import DatasetDict, IterableDatasetDict

from hfkit.config.fields import REVISION_KEYS, DatasetEntry
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES
from hfkit.config.validation import EXTRA, known_fields
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.joining import joined_launch
from hfkit.data.given_rows import is_rows, store_rows
from hfkit.models.given_models import Loaded, store_model
from hfkit.rlhf.reward_functions import name_function
from hfkit.stages.checks.stage import problems_of


def __getattr__(name: str) -> Callable[..., Path]:
    """Return the function of a registered stage."""
    if name in STAGES:
        return stage_function(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def stage_function(name: str) -> Callable[..., Path]:
    """Return the function that runs a stage: `sft(config, **keys)` is `run_stage("sft", config, **keys)`."""

    def run(config=None, **keys) -> Path:
        return run_stage(name, config, **keys)

    run.__name__ = run.__qualname__ = name
    what = STAGES[name].help
    run.__doc__ = f"{what[0].upper()}{what[1:]}, and return the run's folder; see `run_stage` for the arguments."
    return run


def run_stage(stage: str, config=None, **keys) -> Path:
    """Run a stage and return its folder.

    Args:
        stage: name in the registry.
        config: the stage's config, a mapping, or the path of a YAML; None where `keys` say all.
        keys: replace those of `config`.

    Raises:
        ConfigError: with every problem.
    """
    spec = STAGES[stage]
    given = {} if config is None else config
    if isinstance(given, spec.config_class):
        given = values_of(given)
    elif not isinstance(given, (Mapping, str, os.PathLike)):
        remedy = f"expected {spec.config_class.__name__}, a mapping or the path of a YAML; pass rows as datasets=..."
        raise ConfigError([Problem("config", type(given).__name__, remedy)])
    problems: list[Problem] = []
    if isinstance(given, Mapping):
        given = as_plain(spec.config_class, given, problems)
    keys = as_plain(spec.config_class, keys, problems)
    if problems:
        raise ConfigError(problems)
    with joined_launch():
        return import_module(spec.module).main(load_config(spec.config_class, given, problems_of, **keys))


def values_of(config) -> dict:
    """Return the keys of a config with their values; those of `extra` are among them."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    extra = values.pop(EXTRA, {})
    return {**values, **extra}


def as_plain(config_class: type, values: Mapping, problems: list[Problem]) -> dict:
    """Return the values of keys with paths and names instead of objects.

    Rows (a `Dataset`, or a list of mappings) stand for a dataset, alone, in a list, or as the `path` of an entry; a
    model or tokenizer, or both as a pair, for its path; a function for its name.

    Args:
        problems: gets one for each object that cannot be stored.
    """
    hints, plain = known_fields(config_class), {}
    for key, value in values.items():
        try:
            if DatasetEntry in get_args(hints.get(key)):
                value = plain_entries(value)
            elif key == "reward_functions":
                value = function_names(value if isinstance(value, (list, tuple)) else [value])
            elif key in REVISION_KEYS and isinstance(value, Loaded):
                value = store_model(value)
        except HfkitError as error:
            problems.append(Problem(key, type(value).__name__, str(error)))
        plain[key] = value
    return plain


def function_names(functions: list | tuple) -> list:
    """Return the names of functions; what is none stays as it is.

    Raises:
        HfkitError: two functions have one name, as lambdas do.
    """
    names = [name_function(one) if callable(one) else one for one in functions]
    for index, name in enumerate(names):
        if name in names[:index] and functions[names.index(name)] is not functions[index]:
            raise HfkitError(f"two functions have the name {name}: define them with def, under different names")
    return names


def plain_entries(value) -> list:
    """Return a list of datasets, with the path of stored rows for rows."""
    items = [value] if is_rows(value) or not isinstance(value, (list, tuple)) else value
    return [plain_entry(item) for item in items]


def plain_entry(item):
    """Return a dataset, a path or an entry, with the path of stored rows for rows."""
    if is_rows(item):
        return {"path": store_rows(item)}
    if isinstance(item, DatasetEntry):
        item = values_of(item)
    if isinstance(item, Mapping) and is_rows(item.get("path")):
        return {**item, "path": store_rows(item["path"])}
    if isinstance(item, (DatasetDict, IterableDatasetDict)):
        raise HfkitError(f"it holds the splits {', '.join(item)}: pass one, such as value[{next(iter(item), '')!r}]")
    if not isinstance(item, (str, os.PathLike, Mapping)):
        raise HfkitError("expected a path, a Dataset (Dataset.from_pandas, from_generator), or a list of dicts")
    return item
