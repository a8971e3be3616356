"""Loads a source of rows: one entry of a config's `datasets`, from a file, a folder or the Hub."""

from functools import partial

import datasets
from datasets import Dataset

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.caching import map_rows
from hfkit.data.cards import recipe_of
from hfkit.data.columns import (
    TEMPLATE_COLUMNS,
    check_prompt,
    consumed_columns,
    form_columns,
    likely_mapping,
    named_columns,
    shadowed_columns,
    unread_columns,
)
from hfkit.data.conversations import CONVERSATION_COLUMNS, REPLY_COLUMNS, SYSTEM, normalize_conversations
from hfkit.data.conversions import (
    ROW_CONVERSIONS,
    TABLE_CONVERSIONS,
    conversion_problem,
    converted_features,
    evaluate_expression,
    expression_columns,
    expression_feature,
    prompt_of,
)
from hfkit.data.given_rows import name_in_messages
from hfkit.data.json_rows import has_guess
from hfkit.data.loaded_source import LoadedSource
from hfkit.data.progress import progress_bars
from hfkit.data.repeated_prompts import without_repeated_prompts
from hfkit.data.source_rows import NUMERIC_COLUMNS, read_source, require_column

# Prompts are read from a column, from conversations, or from the common start of pairs.
PROMPT_SOURCES = ["prompt", "messages", *REPLY_COLUMNS, *TEMPLATE_COLUMNS]


def read_entry(entry: DatasetEntry, wanted: list[str], needed: list[str] | None = None, seed: int = 0) -> LoadedSource:
    """Return the rows of one entry with only the columns in `wanted` that it has, and those in `needed`.

    Args:
        needed: required columns, of any type.
        seed: random seed that selects the rows of a stream.

    Raises:
        HfkitError: the card, file or dataset does not exist, a mapped or needed column is missing, or a column that may
            contain the prompt of pairs is not mapped.
    """
    needed, recipe, label = needed or [], recipe_of(entry), entry.card or name_in_messages(entry.path)
    reads = PROMPT_SOURCES if wanted == ["prompt"] else wanted
    reads = [*reads, SYSTEM] if "prompt" in reads and SYSTEM not in needed else reads
    rows, reading, left_out, names = read_source(entry, recipe, wanted, reads, needed, seed)
    columns = reading.columns
    if not len(rows):
        raise HfkitError(f"{label} has no rows")
    used = {name for value in columns.values() for name in ([value] if value in names else expression_columns(value))}
    used |= {*needed} | {test.column for test in reading.keep}
    rows = map_columns(rows, columns, label)
    for column in needed:
        require_column(rows, column, "reward_columns", label)
    available = rows.column_names
    read = form_columns(available, columns, reads, [*needed, *consumed_columns(reading.convert)])
    if SYSTEM in read and not {*CONVERSATION_COLUMNS} & {*read}:
        read.remove(SYSTEM)  # plain text has no system message
    unread = unread_columns(names, used, columns, read)
    rows = cast_large_types(rows.select_columns(read))
    for name in reading.convert:
        before, rows = len(rows), convert_rows(rows, name, label)
        left_out += before - len(rows) if name == "drop_ties" else 0
    if "prompt" in reads:
        if recipe is None:
            check_prompt(rows, unread, columns, label)
        rows, roles = normalize_conversations(rows, label)
        rows, repeated = without_repeated_prompts(rows)
        shadowed = shadowed_columns(rows, wanted)
        rows = rows.remove_columns([*shadowed])
    else:
        roles, repeated, shadowed = {}, [], {}
    if wanted == ["prompt"]:
        rows = add_prompts(rows)
    present = [column for column in wanted if column in rows.column_names]
    if not present:
        raise HfkitError(
            f"{label} has the columns {', '.join(available)}, but none that this stage reads "
            f"({', '.join(named_columns(reads))}); map them: "
            "datasets: [{path: ..., columns: {" + likely_mapping(available, wanted) + "}}]"
        )
    if wanted == ["prompt"]:
        present += [column for column in TEMPLATE_COLUMNS if column in rows.column_names and column not in needed]
    rows = rows.select_columns([*present, *needed])
    check_types(rows, present, columns, label)
    mapped, line = columns or dict.fromkeys(present), reading.format
    line += f" ({left_out:,} left out)" if line and left_out else ""
    is_chosen = bool({"prompt", "messages", "text"} & {*(entry.columns or {})})
    return LoadedSource(rows, label, line, left_out, unread, roles, repeated, shadowed, mapped, is_chosen)


def check_types(rows: Dataset, columns: list[str], mapped: dict[str, str], label: str) -> None:
    """Raise HfkitError if a column holds numbers instead of text or messages, or the reverse."""
    for column in columns:
        kind, is_numeric = rows.features[column], column in NUMERIC_COLUMNS
        if column == "text" and not isinstance(kind, datasets.Value):
            raise HfkitError(f"{label}: the column 'text' holds {kind}, expected text")
        if has_guess(kind):
            remedy = "download the file and set path to it: hfkit reads its text unchanged"
            raise HfkitError(f"{label}: the column {column!r} was read as {kind} instead of text: {remedy}")
        if isinstance(kind, datasets.Value) and kind.dtype != "null" and ("string" in kind.dtype) == is_numeric:
            expected = "numbers" if is_numeric else "text" if column == "text" else "text or messages"
            name = mapped.get(column, column)
            remedy = "" if is_numeric or "{" in name else f'; to read it as text: columns: {{{column}: "{{{name}}}"}}'
            raise HfkitError(f"{label}: the column {column!r} holds {kind.dtype}, expected {expected}{remedy}")


def map_columns(rows: Dataset, columns: dict[str, str], label: str) -> Dataset:
    """Return the rows with a stage's columns, by name or by `evaluate_expression`, instead of the dataset's.

    Raises:
        HfkitError: the dataset has no such column, or its type does not fit the expression.
    """
    computed, features = {}, datasets.Features(rows.features)
    for column, expression in columns.items():
        names = [expression] if expression in rows.column_names else expression_columns(expression)
        for name in names:
            require_column(rows, name, column, label)
        if names != [expression]:
            computed[column] = expression
            try:
                features[f"={column}"] = expression_feature(expression, rows.features)
            except ValueError as error:
                raise HfkitError(f"{label}: columns: {{{column}: {expression!r}}}: {error}") from error
    if computed:
        rows = map_rows(rows, partial(computed_columns, expressions=computed), features=features)
    columns = {**columns, **{column: f"={column}" for column in computed}}
    replaced = [column for column in columns if column in rows.column_names and column not in columns.values()]
    return rows.remove_columns(replaced).rename_columns({name: column for column, name in columns.items()})


def computed_columns(row: dict, expressions: dict[str, str]) -> dict:
    """Return the computed columns of a row, under names that no dataset has."""
    return {f"={column}": evaluate_expression(expression, row) for column, expression in expressions.items()}


def convert_rows(rows: Dataset, name: str, label: str) -> Dataset:
    """Return the rows after one conversion of a card.

    Raises:
        HfkitError: the conversion cannot be applied to their columns.
    """
    if problem := conversion_problem(name, rows.features):
        raise HfkitError(f"{label}: convert: {name} {problem}")
    if name in TABLE_CONVERSIONS:
        made = TABLE_CONVERSIONS[name](rows)
        if not len(made):
            remedy = "a prompt needs two responses, a better and a worse one (label: true and label: false)"
            raise HfkitError(f"{label}: convert: {name} leaves no rows: {remedy}")
        return made
    features = converted_features(name, rows.features)
    consumed = [column for column in rows.column_names if column not in features]
    return map_rows(rows, ROW_CONVERSIONS[name], features=features, remove_columns=consumed, desc=name)


def add_prompts(rows: Dataset) -> Dataset:
    """Return the rows with a `prompt`, from their messages or pairs if they have none."""
    source = next((name for name in ("messages", "chosen") if name in rows.column_names), None)
    if "prompt" in rows.column_names or source is None or (source == "chosen" and "rejected" not in rows.column_names):
        return rows
    features = datasets.Features({**rows.features, "prompt": rows.features[source]})
    return map_rows(rows, prompt_column, features=features)


def prompt_column(row: dict) -> dict:
    """Return the prompt of a conversation or of a pair."""
    return {"prompt": prompt_of(row)}


def cast_large_types(rows: Dataset) -> Dataset:
    """Return rows with text and lists as Arrow's `string` and `list`; the CSV reader and Polars use large types."""
    features = datasets.Features({name: without_large_types(kind) for name, kind in rows.features.items()})
    if features == rows.features:
        return rows
    with progress_bars(len(rows)):
        return rows.cast(features)


def without_large_types(kind):
    """Return a feature type without large strings and lists, at any depth."""
    if isinstance(kind, dict):
        return {name: without_large_types(field) for name, field in kind.items()}
    if isinstance(kind, (datasets.List, datasets.LargeList)):
        return datasets.List(without_large_types(kind.feature), length=getattr(kind, "length", -1))
    return datasets.Value("string") if kind == datasets.Value("large_string") else kind
