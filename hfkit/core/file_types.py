"""The types of file that rows are read from."""

from pathlib import PurePath

FILE_TYPES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
"""The builder of `datasets` for each suffix; `.gz` may follow the suffix."""
SUFFIXES = f"{', '.join([*FILE_TYPES][:-1])} or {[*FILE_TYPES][-1]}"
"""The suffixes as a phrase for messages."""


def suffix_of(path: str | PurePath) -> str:
    """Return the last known suffix in a file's name: ".jsonl" of `rows.jsonl.gz`; "" without one."""
    return next((suffix for suffix in PurePath(path).suffixes[::-1] if suffix in FILE_TYPES), "")


def file_type(path: str | PurePath) -> str | None:
    """Return the builder of `datasets` that reads a file, by its name; None if none does."""
    return FILE_TYPES.get(suffix_of(path))


def has_known_suffix(name: str) -> bool:
    """Return whether a name ends in a known suffix, or in one and `.gz`."""
    return name.removesuffix(".gz").endswith(tuple(FILE_TYPES))
