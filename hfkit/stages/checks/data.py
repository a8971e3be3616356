"""The data sets: sources that do not exist, and what an entry asks of them that cannot be."""

import os
import re

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import TokenizerConfig
from hfkit.core.errors import MISSING, ConfigError, HfkitError, Kind, Problem
from hfkit.core.hub_ids import HUB_ID
from hfkit.data.cards import recipe_of, source_split, split_file
from hfkit.data.mixture import BUDGETS

FILE = re.compile(r"\.(jsonl?|csv|txt|parquet)(\.gz)?$")
READ = re.compile(r"\.(jsonl?|csv|txt|parquet)(\.|$)")


def data_problems(config) -> list[Problem]:
    """Sources that are missing or do not exist, weights and budgets that cannot be."""
    problems = []
    if not config.datasets:
        problems.append(Problem("datasets", [], "name at least one: datasets: [{path: FILE_OR_HUB_ID}]"))
    for key in ("datasets", "eval_datasets", "ptx_datasets"):
        entries = getattr(config, key, [])
        for index, entry in enumerate(entries):
            found = card_problems(entry) if entry.card else entry_path_problems(entry)
            found += budget_problems(entry)
            if key == "eval_datasets":
                found += [
                    Problem(name, getattr(entry, name), "held-out rows are all taken, once; rows cuts them")
                    for name in ("weight", "epochs", "tokens")
                    if getattr(entry, name) is not None
                ]
            problems += [problem.under(f"{key}[{index}].") for problem in found]
        problems += mixture_weight_problems(key, entries)
    if isinstance(config, TokenizerConfig):
        problems += [
            Problem(f"datasets[{place}].tokens", entry.tokens, "there are no tokens yet: set rows")
            for place, entry in enumerate(config.datasets)
            if entry.tokens is not None
        ]
    return problems + split_problems(config)


def entry_path_problems(entry: DatasetEntry) -> list[Problem]:
    """A file that is not there, or options that a file has no use for."""
    if entry.path is None:
        return [Problem("path", MISSING, "required: a file, a Hub id, or card: NAME in its place")]
    if not os.path.exists(entry.path):
        if not HUB_ID.match(entry.path):
            return [Problem("path", entry.path, "no such file, and not a Hub id", Kind.NO_SUCH_FILE)]
        missing = Problem("path", entry.path, "no such file", Kind.NO_SUCH_FILE)
        return [missing] if FILE.search(entry.path) else []
    if os.path.isfile(entry.path) and not READ.search(os.path.basename(entry.path)):
        remedy = "files that are read end in .jsonl, .json, .parquet, .csv or .txt, perhaps gzipped (.gz)"
        return [Problem("path", entry.path, remedy)]
    return [
        Problem(name, getattr(entry, name), "has no effect on a file")
        for name in ("name", "revision")
        if getattr(entry, name) is not None
    ]


def card_problems(entry: DatasetEntry) -> list[Problem]:
    """A card that is not there or wrong, or what it says already."""
    problems = [
        Problem(name, getattr(entry, name), "the card says it; for others write a card of your own")
        for name in ("name", "columns")
        if getattr(entry, name) is not None
    ]
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
        return [*problems, Problem("split", entry.split, str(error))]
    if file and not os.path.isfile(file) and not HUB_ID.match(recipe.path):
        problems.append(
            Problem(
                "path", str(file), "no such file; path names another folder for those of the card", Kind.NO_SUCH_FILE
            )
        )
    elif not file and not os.path.exists(recipe.path) and not HUB_ID.match(recipe.path):
        problems.append(Problem("path", recipe.path, "no such folder, and not a Hub id"))
    return problems


def budget_problems(entry: DatasetEntry) -> list[Problem]:
    """Budgets that are nothing, or more than one; a stream without one."""
    given = {name: value for name in BUDGETS if (value := getattr(entry, name)) is not None}
    problems = [Problem(name, value, "must be above 0") for name, value in given.items() if value <= 0]
    if len(given) > 1:
        problems.append(Problem(" and ".join(given), [*given.values()], "give one budget"))
    if entry.streaming and "[" in entry.split:
        problems.append(Problem("split", entry.split, "a stream has whole splits: set rows"))
    if entry.streaming and not {"rows", "tokens"} & given.keys():
        problems.append(Problem("streaming", True, "say how much to take of it: set rows or tokens"))
    return problems


def mixture_weight_problems(key: str, entries: list[DatasetEntry]) -> list[Problem]:
    """Weights that are no probabilities."""
    weights = [entry.weight for entry in entries]
    problems = [
        Problem(f"{key}[{place}].weight", weight, "must not be negative")
        for place, weight in enumerate(weights)
        if weight is not None and weight < 0
    ]
    if None in weights and any(weight is not None for weight in weights):
        problems.append(Problem(f"{key}[{weights.index(None)}].weight", MISSING, "give all sources a weight, or none"))
    elif weights and not problems and None not in weights and not any(weights):
        problems.append(Problem(f"{key}[0].weight", weights[0], "one source at least needs a weight above 0"))
    return problems


def split_problems(config) -> list[Problem]:
    """Rows held out twice, or a number of them that is none."""
    problems, size = [], getattr(config, "test_split_size", None)
    if getattr(config, "eval_datasets", None) and size is not None:
        remedy = "eval_datasets are held out already: remove one of the two"
        problems.append(Problem("test_split_size", size, remedy))
    if size is not None and (size <= 0 or (size > 1 and not size.is_integer())):
        problems.append(Problem("test_split_size", size, "a share below 1, or a whole number of rows"))
    return problems
