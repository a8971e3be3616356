"""Validates the datasets of a config: sources that do not exist, and mixtures that cannot be drawn."""

import os
from pathlib import Path

import datasets

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import MISSING, ConfigError, HfkitError, Kind, Problem
from hfkit.core.file_types import COMPRESSED, SUFFIXES, file_type
from hfkit.core.hub_fetch import missing_folder_error
from hfkit.core.hub_ids import HUB_ID
from hfkit.core.missing_paths import no_such
from hfkit.data.cards import recipe_of, source_split, split_file
from hfkit.data.mixture import BUDGETS
from hfkit.data.source_files import builder_problem
from hfkit.stages.checks.paths import missing_file_problem
from hfkit.stages.checks.rules import broken_rules


def data_problems(config) -> list[Problem]:
    """Return problems of the training rows, the held-out rows, and the rows of `ptx_datasets`."""
    problems = []
    if not config.datasets:
        problems.append(Problem("datasets", [], "name at least one: datasets: [{path: FILE_OR_HUB_ID}]"))
    for key in ("datasets", "eval_datasets", "ptx_datasets"):
        problems += source_problems(key, getattr(config, key, []))
    problems += single_pass_problems("eval_datasets", getattr(config, "eval_datasets", []))
    return problems + split_problems(config)


def source_problems(key: str, entries: list[DatasetEntry]) -> list[Problem]:
    """Return problems of a list of sources, the value of `key` in a config."""
    problems = []
    for index, entry in enumerate(entries):
        found = (card_problems(entry) if entry.card else entry_path_problems(entry)) + budget_problems(entry)
        problems += [problem.under(f"{key}[{index}].") for problem in found]
    return problems + mixture_weight_problems(key, entries)


def single_pass_problems(key: str, entries: list[DatasetEntry]) -> list[Problem]:
    """Return problems of weights and repeats for sources whose rows are all used exactly once."""
    return [
        Problem(f"{key}[{index}].{name}", getattr(entry, name), "every row is used exactly once: set rows to use fewer")
        for index, entry in enumerate(entries)
        for name in ("weight", "epochs", "tokens")
        if getattr(entry, name) is not None
    ]


def entry_path_problems(entry: DatasetEntry) -> list[Problem]:
    """Return problems of an entry's `path`, and of its options that have no effect on a file."""
    if entry.path is None:
        return [Problem("path", MISSING, "missing: a file or a Hub id, or set card: NAME instead")]
    if remedy := builder_problem(entry.path, False):
        return [Problem("path", entry.path, remedy)]
    if problem := missing_file_problem(entry.path):
        return [problem]
    if not os.path.exists(entry.path):
        is_cached = Path(datasets.config.HF_DATASETS_CACHE, entry.path.replace("/", "___")).is_dir()
        fault = missing_folder_error(entry.path, is_cached)
        return [Problem("path", entry.path, fault, Kind.NO_SUCH_FILE)] if fault else []
    if not os.path.isfile(entry.path) and not os.path.isdir(entry.path):
        return [Problem("path", entry.path, "neither a file nor a folder")]
    if os.path.isfile(entry.path) and file_type(entry.path) is None:
        compressed = " or ".join(COMPRESSED)
        remedy = f"expected a file that ends in {SUFFIXES}, or in one of them and {compressed}"
        return [Problem("path", entry.path, remedy)]
    given = [name for name in ("name", "revision") if getattr(entry, name) is not None]
    return broken_rules(entry, [(True, name, "has no effect on a file", "path") for name in given])


def card_problems(entry: DatasetEntry) -> list[Problem]:
    """Return problems of an entry's data card, and of keys that the card sets."""
    given = [name for name in ("name", "columns", "convert") if getattr(entry, name) is not None]
    remedy = "the card sets it: remove it, or write your own card"
    problems = broken_rules(entry, [(True, name, remedy, "card") for name in given])
    try:
        recipe = recipe_of(entry)
    except ConfigError as error:
        return problems + [problem.under("card.") for problem in error.problems]
    except HfkitError as error:
        return [*problems, Problem("card", entry.card, str(error))]
    try:
        file = split_file(recipe, entry.split, entry.card)[0] if recipe.files else None
        source_split(recipe, entry.split, entry.card)
    except HfkitError as error:
        return [*problems, Problem("split", entry.split, str(error), keys=("card",))]
    if HUB_ID.match(recipe.path) and not os.path.isdir(recipe.path):
        return problems
    if file and not os.path.isfile(file):
        remedy = "no such file; set path to the folder that holds the card's files"
        problems.append(Problem("path", str(file), remedy, Kind.NO_SUCH_FILE))
    elif not file and not os.path.exists(recipe.path):
        problems.append(Problem("path", recipe.path, no_such("folder, and not a Hub id", recipe.path)))
    return problems


def budget_problems(entry: DatasetEntry) -> list[Problem]:
    """Return problems of an entry with an empty budget or several budgets, or of a stream without a budget."""
    given = [name for name in BUDGETS if getattr(entry, name) is not None]
    several = f"set one budget: {', '.join(given)} are given"
    sliced = entry.streaming and "[" in entry.split
    endless = entry.streaming and not {"rows", "tokens"} & {*given}
    rules = [
        *((getattr(entry, name) <= 0, name, "must be above 0") for name in given),
        (len(given) > 1, given[0] if given else "rows", several, *given[1:]),
        (sliced, "split", "a stream cannot be sliced: set rows", "streaming"),
        (endless, "streaming", "a stream needs a limit: set rows or tokens", "rows", "tokens"),
    ]
    return broken_rules(entry, rules)


def mixture_weight_problems(key: str, entries: list[DatasetEntry]) -> list[Problem]:
    """Return problems of weights that cannot be probabilities."""
    weights = [entry.weight for entry in entries]
    problems = [
        Problem(f"{key}[{index}].weight", weight, "must not be negative")
        for index, weight in enumerate(weights)
        if weight is not None and weight < 0
    ]
    if None in weights and any(weight is not None for weight in weights):
        remedy = "set a weight for all sources, or for none"
        problems.append(Problem(f"{key}[{weights.index(None)}].weight", MISSING, remedy))
    elif weights and not problems and None not in weights and not any(weights):
        problems.append(Problem(f"{key}[0].weight", weights[0], "at least one source needs a weight above 0"))
    return problems


def split_problems(config) -> list[Problem]:
    """Return problems of `test_split_size`: rows held out twice, or an invalid size."""
    size = getattr(config, "test_split_size", None)
    if size is None:
        return []
    twice, is_no_size = bool(config.eval_datasets), size <= 0 or (size > 1 and not size.is_integer())
    rules = [
        (twice, "test_split_size", "eval_datasets are held out already: remove one of the two", "eval_datasets"),
        (is_no_size, "test_split_size", "expected a share below 1, or a whole number of rows"),
    ]
    return broken_rules(config, rules)
