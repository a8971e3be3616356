"""Reads CSV files as text, and converts only cells that are written as numbers to numbers."""

import re
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from hfkit.core.limits import MAX_ROW_BYTES, limit_of
from hfkit.data.row_sizes import check_columns

# Only an empty cell is null: text such as None, NA or nan stays text.
CSV_OPTIONS = {"keep_default_na": False, "na_values": [""]}
# Numbers as Python writes them: without leading or trailing zeros.
NUMBER = r"^-?(0|[1-9][0-9]{0,14})(\.(0|[0-9]{0,14}[1-9]))?$"


def csv_arguments(path: Path, separator: str) -> dict:
    """Return the arguments of `load_dataset` that read every cell of a CSV file as text.

    Args:
        separator: separator of cells: comma or tab.

    Raises:
        ValueError: the rows have more cells than the header, or the header has another separator or a null character.
    """
    with path.open("rb") as file:
        header = file.readline(limit_of(MAX_ROW_BYTES))
    check_columns(header.count(separator.encode()) + 1)
    if b"\0" in header:  # pandas before 3.1 removes it
        raise ValueError("its header has a null character: save it as UTF-8")
    first = pandas.read_csv(path, nrows=1, dtype=str, encoding="utf-8", sep=separator, **CSV_OPTIONS)
    names = first.columns
    other = next((one for one in ",;\t|" if one != separator and len(names) == 1 and one in str(names[0])), None)
    if other:
        wanted = {",": "commas", "\t": "tabs"}[separator]
        raise ValueError(f"its columns are separated by {other!r}: save it with {wanted}")
    if not isinstance(first.index, pandas.RangeIndex):  # pandas would shift the names by one column
        raise ValueError(f"its rows have more cells than its header has names ({', '.join(map(str, names))})")
    return {**CSV_OPTIONS, "sep": separator, "features": Features({str(name): Value("string") for name in names})}


def with_numbers(rows: Dataset, texts: set[str], numbers: set[str]) -> Dataset:
    """Return the rows of a CSV file; columns whose cells are all written as numbers or booleans are converted.

    Args:
        texts: columns that stay text.
        numbers: columns that are converted even if a number is written differently, such as 1.50.
    """
    types = {name: cell_type(rows.data[name], name in numbers) for name in rows.column_names if name not in texts}
    changed = {name: kind for name, kind in types.items() if kind is not None}
    return rows.cast(Features({**rows.features, **changed})) if changed else rows


def cell_type(cells: pa.ChunkedArray, is_number: bool) -> Value | None:
    """Return the type of a column's cells if it is not text."""
    cells = cells.drop_null()
    if not len(cells):
        return Value("float64") if is_number else None
    if pc.all(pc.is_in(cells, value_set=pa.array(["True", "False"], cells.type))).as_py():
        return Value("bool")
    if not is_number and not pc.all(pc.match_substring_regex(cells, NUMBER)).as_py():
        return None
    for name in ("int64", "float64"):
        try:
            pc.cast(cells, name)
        except pa.ArrowInvalid:
            continue
        return Value(name)
    return None


def cell_value(text: str | None, is_number: bool) -> str | float | bool | None:
    """Return the value of one cell, as in `with_numbers`.

    Args:
        is_number: whether it is a number even if written differently.
    """
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if text and (is_number or re.match(NUMBER, text)) else text
    except ValueError:
        return text
