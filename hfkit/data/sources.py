"""A source of rows: one entry of a config's `datasets`, read from a file, a folder or the Hub."""

from functools import partial
from pathlib import Path

import datasets
from datasets import Dataset

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.caching import Versioned
from hfkit.data.cards import REQUIRED_COLUMNS, OPTIONAL_COLUMNS, Recipe, split_file, recipe_of, source_split
from hfkit.data.conversions import (
    ROW_CONVERSIONS,
    TABLE_CONVERSIONS,
    evaluate_expression,
    expression_feature,
    converted_features,
    prompt_of,
    expression_columns,
    conversion_problem,
)
from hfkit.data.files import progress_bars, read_rows
from hfkit.data.streams import take_rows

# What gives prompts: a column of them, conversations, or pairs that begin alike.
ASKING = ["prompt", "messages", "chosen", "rejected"]
NUMERIC_COLUMNS = ("margin", "ranks", "scores")  # all other columns hold text or messages


def load_entry(entry: DatasetEntry, wanted: list[str], needed: list[str] | None = None, seed: int = 0) -> Dataset:
    """The rows of one entry, as `load_counted` gives them."""
    return load_counted(entry, wanted, needed, seed)[0]


def load_counted(
    entry: DatasetEntry, wanted: list[str], needed: list[str] | None = None, seed: int = 0
) -> tuple[Dataset, int]:
    """The rows of one entry, reduced to the columns in `wanted` that it has, and to those in `needed`.

    Args:
        needed: columns of any kind.
        seed: decides which rows of a stream are taken.

    Returns:
        the rows, and how many others its card's `keep` left out.

    Raises:
        HfkitError: no such card, file or data set, or a mapped or needed column that it lacks.
    """
    needed, recipe, label = needed or [], recipe_of(entry), entry.card or entry.path
    reads = ASKING if wanted == ["prompt"] else wanted
    columns = mapped_columns(entry, [*reads, *needed]) if recipe is None else card_columns(recipe, wanted)
    rows, left_out = read_source(entry, recipe, columns, [*reads, *needed], seed)
    if not len(rows):
        raise HfkitError(f"{label} has no rows")
    rows = map_columns(rows, columns, label)
    for column in needed:
        require_column(rows, column, "reward_columns", label)
    there = rows.column_names
    rows = cast_large_types(rows.select_columns(form_columns(there, columns, reads, needed)))
    for name in recipe.convert if recipe else []:
        rows = convert_rows(rows, name, label)
    if reads is ASKING:
        rows = add_prompts(rows)
    present = [column for column in wanted if column in rows.column_names]
    if not present:
        raise HfkitError(
            f"{label} has the columns {there}, and none that this stage reads ({reads}); map them: "
            "datasets: [{path: ..., columns: {" + wanted[0] + ": YOUR_COLUMN}}]"
        )
    rows = rows.select_columns([*present, *needed])
    for column in present:
        kind = rows.features[column]
        if isinstance(kind, datasets.Value) and not is_readable(column, kind.dtype):
            expected = "numbers" if column in NUMERIC_COLUMNS else "text" if column == "text" else "text or messages"
            raise HfkitError(f"{label}: the column {column!r} holds {kind.dtype}, and should hold {expected}")
    return rows, left_out


def form_columns(there: list[str], columns: dict[str, str], reads: list[str], needed: list[str]) -> list[str]:
    """The columns that are read of those that are there: the mapped ones decide which form's.

    So what is mapped to `prompt` and `response` is read, though the data set has `messages` of its own.
    """
    forms = [
        {*REQUIRED_COLUMNS[form], *OPTIONAL_COLUMNS.get(form, ())} for form in REQUIRED_COLUMNS if form != "ranking"
    ]
    forms += [
        {"prompt", "completion"},
        {*REQUIRED_COLUMNS["ranking"], "ranks"},
        {*REQUIRED_COLUMNS["ranking"], "scores"},
    ]
    mapped = {column for column in columns if column in reads and column not in (*needed, "tools")}
    fit = [form for form in forms if mapped <= form]
    own = {"tools"}.union(*fit) if mapped and fit else {*reads}
    return [column for column in there if column in needed or column in mapped or (column in reads and column in own)]


def read_source(
    entry: DatasetEntry, recipe: Recipe | None, columns: dict, reads: list[str], seed: int
) -> tuple[Dataset, int]:
    """The rows that a card keeps, of a stream as many as its budget asks for, in the data set's own columns.

    Args:
        columns: of the stage, from those of the data set.
        reads: all that the stage can read.

    Returns:
        the rows, and how many were left out.

    Raises:
        HfkitError: none is kept.
    """
    keep = recipe.keep if recipe else []
    if entry.streaming:
        used = {name for expression in columns.values() for name in expression_columns(expression)}
        used |= {*columns.values(), *reads, *(test.column for test in keep)}
        return take_rows(entry, load_arguments(entry, recipe), sorted(used), keep, seed)
    rows = read_rows(load_arguments(entry, recipe))
    for test in keep:
        require_column(rows, test.column, "keep", entry.card)
    if not keep:
        return rows, 0
    try:
        with progress_bars(len(rows)):
            passing = rows.filter(Versioned.of(partial(passes, tests=keep)))
    except HfkitError as error:
        raise HfkitError(f"{entry.card}: {error}") from error
    if not len(passing):
        raise HfkitError(f"{entry.card}: keep leaves none of the rows")
    return passing, len(rows) - len(passing)


def mapped_columns(entry: DatasetEntry, reads: list[str]) -> dict[str, str]:
    """The columns that an entry without a card maps.

    Raises:
        HfkitError: to one that the stage does not read, or twice from one.
    """
    columns = entry.columns or {}
    strange = [column for column in columns if column not in reads]
    if strange or len({*columns.values()}) < len(columns):
        wrong = f"maps to {strange}, which it does not read" if strange else "maps one column twice"
        raise HfkitError(f"{entry.path}: columns {columns} {wrong}; this stage reads {reads}")
    return columns


def card_columns(recipe: Recipe, wanted: list[str]) -> dict[str, str]:
    """The columns of a card that a stage needs.

    Raises:
        HfkitError: its form is not the stage's.
    """
    if wanted == ["prompt"] and recipe.form != "text":  # any form that asks something gives prompts
        only_prompts = "prompt" in recipe.columns and not recipe.convert
        return {"prompt": recipe.columns["prompt"]} if only_prompts else recipe.columns
    if recipe.form == "prompts" or not {*REQUIRED_COLUMNS[recipe.form]} <= {*wanted}:
        raise HfkitError(f"{recipe.path} has the form {recipe.form}; this stage reads {', '.join(wanted)}")
    return recipe.columns


def load_arguments(entry: DatasetEntry, recipe: Recipe | None) -> dict:
    """What `datasets.load_dataset` is asked for: path, name, data_files, revision and split.

    Raises:
        HfkitError: the card has no such split.
    """
    if recipe is None:
        return {"path": entry.path, "name": entry.name, "revision": entry.revision, "split": entry.split}
    if recipe.files and Path(recipe.path).is_dir():
        file, split = split_file(recipe, entry.split, entry.card)
        return {"path": str(file), "split": split}
    split = source_split(recipe, entry.split, entry.card)
    place = {"path": recipe.path, "name": recipe.name, "revision": recipe.revision, "split": split}
    return {**place, "data_files": recipe.files} if recipe.files else place


def map_columns(rows: Dataset, columns: dict[str, str], label: str) -> Dataset:
    """The rows with a stage's columns from those of the data set, by name or as `conversions.evaluate` reads them.

    Raises:
        HfkitError: it has no such column.
    """
    computed = {}
    for column, expression in columns.items():
        names = [expression] if expression in rows.column_names else expression_columns(expression)
        for name in names:
            require_column(rows, name, column, label)
        if names != [expression]:
            computed[column] = expression
    if computed:
        with progress_bars(len(rows)):
            kinds = {f"={column}": computed_feature(column, computed, rows.features, label) for column in computed}
            features = datasets.Features({**rows.features, **kinds})
            rows = rows.map(Versioned.of(partial(computed_columns, expressions=computed)), features=features)
    columns = {**columns, **{column: f"={column}" for column in computed}}
    replaced = [column for column in columns if column in rows.column_names and column not in columns.values()]
    return rows.remove_columns(replaced).rename_columns({theirs: column for column, theirs in columns.items()})


def computed_feature(column: str, computed: dict[str, str], features: datasets.Features, label: str):
    """The type of a computed column; an HfkitError where the data set's columns are not of the kinds that it needs."""
    try:
        return expression_feature(computed[column], features)
    except ValueError as error:
        raise HfkitError(f"{label}: columns: {{{column}: {computed[column]!r}}}: {error}") from error


def require_column(rows: Dataset, name: str, needed_for: str, label: str) -> None:
    """Raises an HfkitError that names a column that is not there."""
    if name not in rows.column_names:
        raise HfkitError(f"{label} has no column {name!r} (for {needed_for}); it has {rows.column_names}")


def computed_columns(row: dict, expressions: dict[str, str]) -> dict:
    """The columns that are more than one of the data set's, under names that no data set has."""
    return {f"={column}": evaluate_expression(expression, row) for column, expression in expressions.items()}


def convert_rows(rows: Dataset, name: str, label: str) -> Dataset:
    """The rows after one of a card's conversions.

    Raises:
        HfkitError: it has no use for their columns.
    """
    if why := conversion_problem(name, rows.features):
        raise HfkitError(f"{label}: convert: {name} {why}")
    if name in TABLE_CONVERSIONS:
        return TABLE_CONVERSIONS[name](rows)
    features = datasets.Features({**rows.features, **converted_features(name, rows.features)})
    with progress_bars(len(rows)):
        return rows.map(Versioned.of(ROW_CONVERSIONS[name]), features=features, desc=name)


def passes(row: dict, tests: list) -> bool:
    """Whether a row passes all of a card's conditions."""
    return all(test(row) for test in tests)


def add_prompts(rows: Dataset) -> Dataset:
    """Rows that ask something with it as their `prompt`: as they are if they have one."""
    source = next((name for name in ("messages", "chosen") if name in rows.column_names), None)
    if "prompt" in rows.column_names or source is None or (source == "chosen" and "rejected" not in rows.column_names):
        return rows
    features = datasets.Features({**rows.features, "prompt": rows.features[source]})
    with progress_bars(len(rows)):
        return rows.map(Versioned.of(prompt_column), features=features)


def prompt_column(row: dict) -> dict:
    """The prompt of a conversation or of a pair."""
    return {"prompt": prompt_of(row)}


def is_readable(column: str, dtype: str) -> bool:
    """Whether a column of plain values can be read: numbers where they are meant, else text (or nothing at all)."""
    return dtype == "null" or ("string" in dtype) != (column in NUMERIC_COLUMNS)


def cast_large_types(rows: Dataset) -> Dataset:
    """Text and lists as Arrow's `string` and `list`, whichever wrote them: CSV's reader and Polars give large ones."""
    features = datasets.Features({name: without_large_types(kind) for name, kind in rows.features.items()})
    if features == rows.features:
        return rows
    with progress_bars(len(rows)):
        return rows.cast(features)


def without_large_types(kind):
    """A feature type without large strings and lists, at any depth."""
    if isinstance(kind, dict):
        return {name: without_large_types(field) for name, field in kind.items()}
    if isinstance(kind, datasets.LargeList):
        return datasets.List(without_large_types(kind.feature))
    if isinstance(kind, datasets.List):
        return datasets.List(without_large_types(kind.feature), length=kind.length)
    return datasets.Value("string") if kind == datasets.Value("large_string") else kind
