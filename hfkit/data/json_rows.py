"""Read JSON files whose text the reader of `datasets` would turn into something else.

It turns text that looks like a date into a timestamp, and in a column of text and numbers, or of text and lists, any
text that happens to be JSON ("007", "null") into its value. Such files are read with Python's `json` instead.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets import Dataset, Features, List, Value

from hfkit.core.file_types import suffix_of
from hfkit.data.caching import code_hash
from hfkit.data.conversions import JSON, TEXT_ROLE

DATE = re.compile(rb'"\d{4}-\d\d-\d\d(?:[T ][\d:.,]+)?(?:Z|[+-]\d\d(?::?\d\d)?)?"')
GUESSED_TYPES = ("timestamp", "date", "time", "duration")  # prefixes of the names of types that JSON does not have
CHUNK_BYTES = 10 << 20  # what the reader of `datasets` infers types from at once


def exact_rows(path: Path, features: Features, split: str) -> Dataset | None:
    """Return the rows of a JSON file with each text as it is written, or None if `datasets` reads them so.

    Args:
        features: as `datasets` inferred them.
        split: `train`, with optional slicing.
    """
    has_mixed = any(contains_json(kind) for kind in features.values())
    if not has_mixed and not any(has_guess(kind) for kind in features.values()) and not has_late_dates(path):
        return None
    try:
        next(iter_json_rows(path))
    except (StopIteration, ValueError):  # one object with columns as lists
        return None
    values = {name: mixture_of(path, name) for name, kind in features.items() if JSON and isinstance(kind, JSON)}
    types = Features({name: exact_feature(kind, values.get(name)) for name, kind in features.items()})
    state = path.stat()
    plan = {
        "path": str(path),
        "state": [state.st_mtime_ns, state.st_size],
        "written": [name for name, mixture in values.items() if mixture == "scalars"],
        "wrapped": [name for name, mixture in values.items() if mixture == "messages"],
        "encoded": [name for name, mixture in values.items() if mixture == "other"],
        "code": code_hash(generate_rows),
    }
    rows = Dataset.from_generator(generate_rows, features=types, gen_kwargs={"plan": plan})
    parts = datasets.ReadInstruction.from_spec(split).to_absolute({"train": len(rows)})
    kept = [index for part in parts for index in range(part.from_ or 0, len(rows) if part.to is None else part.to)]
    return rows if len(kept) == len(rows) else rows.select(kept)


def has_guess(kind) -> bool:
    """Return whether a type, at any depth, has a value that JSON cannot express, such as a timestamp."""
    if isinstance(kind, dict):
        return any(map(has_guess, kind.values()))
    return str(getattr(kind, "dtype", "")).startswith(GUESSED_TYPES) or (
        isinstance(kind, (List, datasets.LargeList)) and has_guess(kind.feature)
    )


def contains_json(kind) -> bool:
    """Return whether a type holds values of any type, other than as the items of a list."""
    if isinstance(kind, dict):
        return any(map(contains_json, kind.values()))
    if isinstance(kind, (List, datasets.LargeList)):
        return not isinstance(kind.feature, JSON) and contains_json(kind.feature)
    return isinstance(kind, JSON)


def has_late_dates(path: Path) -> bool:
    """Return whether a file has dates and is read in several chunks: a chunk of dates alone would be changed."""
    is_long = path.suffix == ".gz" or path.stat().st_size > CHUNK_BYTES
    opened = gzip.open if path.suffix == ".gz" else open
    if not is_long:
        return False
    with opened(path, "rb") as stream:
        return any(DATE.search(line) for line in stream)


def exact_feature(kind, mixture: str | None = None):
    """Return a type that holds what is written: text in place of timestamps, and whole objects where types are mixed.

    Args:
        mixture: of a column of several types, see `mixture_of`.
    """
    if mixture:
        return {"scalars": Value("string"), "messages": List(JSON()) if JSON else kind}.get(mixture, kind)
    if isinstance(kind, dict):
        return JSON() if contains_json(kind) else {name: exact_feature(field) for name, field in kind.items()}
    if isinstance(kind, (List, datasets.LargeList)):
        return List(exact_feature(kind.feature))
    return Value("string") if has_guess(kind) else kind


def iter_json_rows(path: Path, *, as_written: bool = False) -> Iterator[dict]:
    """Yield the rows of a JSON file: a line each, or the items of one list.

    Args:
        as_written: whether numbers are texts, with the digits that the file has.
    """
    options = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), str) if as_written else {}
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as stream:
        if suffix_of(path) != ".jsonl" and stream.read(1).strip() in ("[", ""):
            stream.seek(0)
            rows = json.loads(stream.read(), **options)
            rows = rows if isinstance(rows, list) else []
            yield from (row if isinstance(row, dict) else {"text": row} for row in rows)
            return
        stream.seek(0)
        yield from (json.loads(line, **options) or {} for line in stream if line.strip())


def mixture_of(path: Path, name: str) -> str:
    """Return what a column of several types holds: "scalars", "messages" (or texts), or "other"."""
    kinds = set()
    for row in iter_json_rows(path):
        value = row.get(name)
        is_messages = isinstance(value, list) and all(isinstance(one, dict) for one in value)
        kinds.add("messages" if is_messages else "other" if isinstance(value, (list, dict)) else type(value).__name__)
    kinds -= {"NoneType"}
    if not kinds & {"messages", "other"}:
        return "scalars"
    return "messages" if kinds <= {"messages", "str"} else "other"


def generate_rows(plan: dict) -> Iterator[dict]:
    """Yield the rows of `exact_rows`; some keys of `plan` only tell cached results apart."""
    path = Path(plan["path"])
    written = iter_json_rows(path, as_written=True) if plan["written"] else None
    for row in iter_json_rows(path):
        texts = next(written) if written else {}
        for name in plan["written"]:
            value = texts.get(name)
            row[name] = json.dumps(value) if isinstance(value, bool) else value
        for name in plan["wrapped"]:
            value = row.get(name)
            row[name] = [{"role": TEXT_ROLE, "content": value}] if isinstance(value, str) else value
        for name in plan["encoded"]:
            row[name] = None if row.get(name) is None else json.dumps(row[name])
        yield row
