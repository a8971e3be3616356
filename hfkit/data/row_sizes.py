"""Validates the sizes of rows after reading, since huge rows would exhaust memory later."""

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hfkit.core.limits import MAX_COLUMNS, MAX_ROW_BYTES, LimitError, exceeded, limit_of


def check_sizes(rows: Dataset) -> None:
    """Raise LimitError if there are too many columns or a value is too large."""
    check_columns(len(rows.column_names))
    limit = limit_of(MAX_ROW_BYTES)
    if rows.data.nbytes <= limit:
        return
    for name in rows.column_names:
        start = 0
        for chunk in rows.data[name].chunks:
            if longest_value(chunk) > limit:
                index = next(index for index in range(len(chunk)) if longest_value(chunk.slice(index, 1)) > limit)
                error = exceeded(MAX_ROW_BYTES, f"a value of the column {name!r} has", "bytes")
                raise LimitError(f"row {start + index + 1}: {error}")
            start += len(chunk)


def check_columns(count: int) -> None:
    """Raise LimitError if rows have too many columns."""
    if count > limit_of(MAX_COLUMNS):
        raise exceeded(MAX_COLUMNS, "it has", "columns")


def longest_value(array: pa.Array) -> int:
    """Return the number of bytes of the longest text in an array, at any depth."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return longest_value(array.storage)
    if pa.types.is_struct(kind):
        return max(map(longest_value, array.flatten()), default=0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return longest_value(array.flatten())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return pc.max(pc.binary_length(array)).as_py() or 0
    return 0
