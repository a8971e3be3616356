"""The file types that rows are read from."""

from pathlib import PurePath

FILE_TYPES = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
    ".txt": "text",
}
"""The builder of `datasets` for each suffix; one of `COMPRESSED` may follow the suffix."""
COMPRESSED = (".gz", ".zst")
"""The suffixes of compressed files."""
ROW_PER_LINE = (".jsonl", ".ndjson")
"""The suffixes of files with one row per line."""
SUFFIXES = f"{', '.join([*FILE_TYPES][:-1])} or {[*FILE_TYPES][-1]}"
"""The suffixes as a phrase for messages."""


def suffix_of(path: str | PurePath) -> str:
    """Return the suffix of a file's type: ".jsonl" for `rows.jsonl.gz`; "" if unknown, as for `rows.jsonl.bz2`."""
    suffix = PurePath(without_compression(str(path))).suffix
    return suffix if suffix in FILE_TYPES else ""


def file_type(path: str | PurePath) -> str | None:
    """Return the builder of `datasets` that reads a file, chosen by its name; None if there is none."""
    return FILE_TYPES.get(suffix_of(path))


def without_compression(name: str) -> str:
    """Return a file's name without the suffix of compression: `rows.jsonl` for `rows.jsonl.gz`."""
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)
