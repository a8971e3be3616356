"""Reads the rows of a source in its own columns, and decides how these become the columns of a stage."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.caching import Versioned, code_hash
from hfkit.data.cards import Keep, Recipe, passes, recipe_of, source_split, split_file
from hfkit.data.columns import card_columns, consumed_columns, mapped_columns
from hfkit.data.conversions import expression_columns, is_difference
from hfkit.data.csv_rows import with_numbers
from hfkit.data.files import builder_of, read_rows
from hfkit.data.formats import matching_format
from hfkit.data.given_rows import name_in_messages
from hfkit.data.progress import progress_bars
from hfkit.data.recognition import Reading, recognize
from hfkit.data.source_files import check_files
from hfkit.data.streams import first_rows, take_rows

NUMERIC_COLUMNS = ("margin", "ranks", "scores")  # all other columns hold text or messages


def read_source(
    entry: DatasetEntry, recipe: Recipe | None, wanted: list[str], reads: list[str], needed: list[str], seed: int
) -> tuple[Dataset, Reading, int, list[str]]:
    """Return the kept rows (of a stream, up to its budget), in the dataset's own columns.

    Args:
        wanted, needed: as for `read_entry`.
        reads: all columns that the stage can read.

    Returns:
        the rows, how their columns become the stage's, the number of rows left out, and the names of all columns.

    Raises:
        HfkitError: no row is kept, or the columns cannot be read.
    """
    label, arguments = entry.card or name_in_messages(entry.path), load_arguments(entry, recipe)
    reading = given_reading(entry, recipe, wanted, [*reads, *needed])
    if entry.streaming:
        rows, is_csv = first_rows(arguments) if reading is None else None, is_csv_file(arguments)
    else:
        rows, is_csv = read_rows(arguments)
    if reading is None:
        typed = with_numbers(rows, {*reads}, set()) if is_csv else rows
        reading = recognize(typed, wanted, needed, label)
    columns, keep = reading.columns, reading.keep
    numbers = {columns.get(column, column) for column in NUMERIC_COLUMNS}
    numbers |= {name for value in columns.values() if is_difference(value) for name in expression_columns(value)}
    numbers |= {test.column for test in keep if test.is_numeric}
    texts = ({columns.get(column, column) for column in reads} | {*reads}) - numbers - {*needed}
    if entry.streaming:
        used = {name for expression in columns.values() for name in expression_columns(expression)}
        used |= {
            *columns.values(),
            *reads,
            *needed,
            *(test.column for test in keep),
            *consumed_columns(reading.convert),
        }
        rows, left_out, names = take_rows(entry, arguments, sorted(used), keep, seed)
        return (with_numbers(rows, texts, numbers) if is_csv else rows), reading, left_out, names
    rows = with_numbers(rows, texts, numbers) if is_csv else rows
    passing = filter_rows(rows, keep, label) if keep else rows
    return passing, reading, len(rows) - len(passing), rows.column_names


def given_reading(entry: DatasetEntry, recipe: Recipe | None, wanted: list[str], reads: list[str]) -> Reading | None:
    """Return how a card or an entry defines that columns are read; None if neither does.

    Raises:
        HfkitError: the columns do not fit the stage.
    """
    if recipe is not None:
        return Reading(card_columns(recipe, wanted), recipe.convert, recipe.keep)
    if entry.columns or entry.convert:
        return Reading(mapped_columns(entry, reads), entry.convert or [])
    return None


def is_csv_file(source: dict) -> bool:
    """Return whether a source is a CSV file on this machine, whose cells are text."""
    return builder_of(Path(source["path"])) == "csv"


def filter_rows(rows: Dataset, keep: Sequence[Keep], label: str) -> Dataset:
    """Return the rows that pass all conditions.

    Raises:
        HfkitError: no row passes, or a condition does not fit the values.
    """
    for test in keep:
        require_column(rows, test.column, "keep", label)
    try:
        with progress_bars(len(rows)):
            passing = rows.filter(Versioned(partial(passes, tests=[*keep]), code_hash(passes)))
    except HfkitError as error:
        raise HfkitError(f"{label}: {error}") from error
    if not len(passing):
        conditions = ", ".join(f"{test.column} {name} {getattr(test, name)}" for test in keep for name in test.tests())
        raise HfkitError(f"{label}: no row passes keep ({conditions}): change it")
    return passing


def load_arguments(entry: DatasetEntry, recipe: Recipe | None) -> dict:
    """Return the arguments of `datasets.load_dataset`: path, name, data_files, revision and split.

    Raises:
        HfkitError: the card has no such split.
    """
    if recipe is None:
        return {"path": entry.path, "name": entry.name, "revision": entry.revision, "split": entry.split}
    if recipe.files and Path(recipe.path).is_dir():
        file, split = split_file(recipe, entry.split, entry.card)
        check_files(Path(recipe.path), [file])
        return {"path": str(file), "split": split}
    split = source_split(recipe, entry.split, entry.card)
    arguments = {"path": recipe.path, "name": recipe.name, "revision": recipe.revision, "split": split}
    return {**arguments, "data_files": recipe.files} if recipe.files else arguments


def require_column(rows: Dataset, name: str, needed_for: str, label: str) -> None:
    """Raise HfkitError if a column is missing."""
    if name not in rows.column_names:
        raise HfkitError(f"{label} has no column {name!r} (for {needed_for}); it has {rows.column_names}")


def source_form(entry: DatasetEntry, wanted: list[str]) -> str | None:
    """Return the form of a source's rows, by its card or by its format; None if it is unknown.

    Args:
        wanted: the columns that a stage would read; if it cannot read the rows, return the form of their prompts.

    Raises:
        HfkitError: the rows cannot be read.
    """
    recipe = recipe_of(entry)
    if recipe is not None or entry.columns or entry.convert:
        return recipe and recipe.form
    arguments = load_arguments(entry, recipe)
    rows, is_csv = (first_rows(arguments), is_csv_file(arguments)) if entry.streaming else read_rows(arguments)
    rows = with_numbers(rows, {*wanted}, set()) if is_csv else rows
    found = matching_format(rows, wanted, entry.path) or matching_format(rows, ["prompt"], entry.path)
    return found and found.form
