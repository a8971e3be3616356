"""Finds models and files that a config names and that do not exist; imports no heavy library.

The checks of configs report them too, with other problems, but need seconds to import the libraries of models.
"""

from collections.abc import Iterator

from hfkit.config.evaluation import JUDGE_KINDS, EvaluateConfig, split_name
from hfkit.core.errors import HfkitError, Problem
from hfkit.core.hub_fetch import missing_folder_error, require_model
from hfkit.core.hub_ids import split_revision
from hfkit.stages.checks.paths import missing_file_problem, variable_remedy


def problems_of(config) -> list[Problem]:
    """Return a problem for each model and each file of a config of evaluations or labels that does not exist."""
    problems = [
        Problem(key, path, problem)
        for key, path, revision in models_of(config)
        if (problem := missing_model(path, revision))
    ]
    for key in ("datasets", "prompts"):
        for index, entry in enumerate(getattr(config, key, [])):
            if entry.path and (found := missing_file_problem(entry.path)):
                problems.append(found.under(f"{key}[{index}]."))
    return problems


def models_of(config) -> Iterator[tuple[str, str, str]]:
    """Yield key, path and revision of each model that a config of evaluations or labels names."""
    if isinstance(config, EvaluateConfig):
        yield from ((key, path, revision) for key, (_, path, revision) in config.models().items())
    else:
        for index, given in enumerate(getattr(config, "models", [])):
            yield f"models[{index}]", split_name(given)[1], "main"
    for key in ("reference", "reward_model", "judge"):
        path = getattr(config, key, None)
        if path and (key != "judge" or path not in JUDGE_KINDS):
            yield key, path, "main"


def missing_model(path: str, revision: str) -> str | None:
    """Return why a model is in no folder, not in the Hub's cache, and cannot be fetched from the Hub; else None."""
    if fault := missing_folder(path):
        return fault
    try:
        require_model(*split_revision(path, revision))
    except HfkitError as error:
        return str(error)
    return None


def missing_folder(path: str) -> str | None:
    """Return why neither a folder nor the Hub has a model with this path, or None if one of them may have it."""
    return variable_remedy(path) or missing_folder_error(path)
