"""Reads JSON files without changing their text.

The reader of `datasets` infers types from a part of a file. It converts text that looks like a date to a timestamp,
and text in a column with other types ("007", "null") to the JSON value; if types change later in the file, it fails
or converts messages to text. So all rows are scanned first (`json_shapes.py`). If that reader would change a value,
the rows are read with Python's `json` instead.
"""

import json
import re
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import datasets
from datasets import Dataset, Features, List, Value

from hfkit.core.limits import MAX_COLUMNS, MAX_DEPTH, MAX_ROW_BYTES, LimitError, exceeded, limit_of, too_deep
from hfkit.data.caching import code_hash
from hfkit.data.json_shapes import add_value, as_written, is_plain, new_shape, row_features

GUESSED_TYPES = ("timestamp", "date", "time", "duration")  # prefixes of the names of types that JSON does not have
NEXT_VALUE = re.compile(r"\s*")


def json_shape(paths: list[Path]) -> dict:
    """Return the shape of the rows of JSON files; it is kept in the cache of `datasets`.

    Raises:
        ValueError: a file is not JSON, or its rows are not objects.
    """
    plan = {"paths": [*map(str, paths)], "state": state_of(paths), "code": code_hash(scan_rows)}
    features = Features({"shape": Value("string")})
    shape = json.loads(Dataset.from_generator(scan_rows, features=features, gen_kwargs={"plan": plan})[0]["shape"])
    if not shape["fields"]:
        raise ValueError("no line is an object")
    return shape


def scan_rows(plan: dict) -> Iterator[dict]:
    """Yield the shape of the rows of JSON files, as JSON.

    Raises:
        LimitError: a row is nested too deeply, or there are too many columns and fields.
    """
    shape, depth, columns, is_by_line = new_shape(), limit_of(MAX_DEPTH), limit_of(MAX_COLUMNS), True
    for path in map(Path, plan["paths"]):
        is_by_line = has_row_per_line(path) and is_by_line
        for location, row in iter_located(path):
            try:
                columns -= add_value(shape, row, depth)
                if columns < 0:
                    raise exceeded(MAX_COLUMNS, "the rows up to it have", "columns and fields")
            except LimitError as error:
                raise LimitError(f"{location[0]} {location[1]}: {error}") from None
    yield {"shape": json.dumps(shape | {"is_by_line": is_by_line})}


def exact_rows(paths: list[Path], shape: dict, split: str = "train") -> Dataset | None:
    """Return the rows of JSON files with unchanged text, or None if `datasets` reads them so.

    Args:
        shape: as `json_shape` returns it.
        split: `train`, with optional slicing.
    """
    if shape["is_by_line"] and is_plain(shape):
        return None
    plan = {"paths": [*map(str, paths)], "state": state_of(paths), "code": code_hash(generate_rows), "shape": shape}
    rows = Dataset.from_generator(generate_rows, features=row_features(shape), gen_kwargs={"plan": plan})
    parts = datasets.ReadInstruction.from_spec(split).to_absolute({"train": len(rows)})
    kept = [index for part in parts for index in range(part.from_ or 0, len(rows) if part.to is None else part.to)]
    return rows if len(kept) == len(rows) else rows.select(kept)


def generate_rows(plan: dict) -> Iterator[dict]:
    """Yield the rows of `exact_rows`; some keys of `plan` only distinguish cached results."""
    shape, features = plan["shape"], row_features(plan["shape"])
    for path in map(Path, plan["paths"]):
        written = iter_located(path, numbers_as_text=True)
        for (_, row), (_, texts) in zip(iter_located(path), written, strict=True):
            yield as_written(shape, row, texts, {**features})


def state_of(paths: list[Path]) -> list[list[int]]:
    """Return the modification time and the size of each file."""
    return [[path.stat().st_mtime_ns, path.stat().st_size] for path in paths]


def iter_located(path: Path, *, numbers_as_text: bool = False) -> Iterator[tuple[tuple[str, int], dict]]:
    """Yield the rows of a JSON file, each with its location, ("line", 3) or ("row", 3).

    They are one line each, consecutive objects, or the items of one list.

    Args:
        numbers_as_text: whether to return numbers as text, with the digits in the file.

    Raises:
        ValueError: the file is not JSON or not UTF-8, or it holds anything other than objects (and texts in a list).
    """
    options = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), str) if numbers_as_text else {}
    options |= {"object_pairs_hook": unique_keys} if numbers_as_text else {}
    if has_row_per_line(path):
        check_lines(path)
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield (location := ("line", number)), as_row(parse_line(line, number, options), location)
        return
    with path.open(encoding="utf-8-sig") as stream:
        text, decoder = stream.read().rstrip(), json.JSONDecoder(**options)
    position = NEXT_VALUE.match(text).end()
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(describe_fault(error, position)) from None
        except RecursionError:
            raise too_deep() from None
        if isinstance(value, list) and position < len(text):
            raise ValueError("expected one list, found several")
        for number, row in enumerate(value if isinstance(value, list) else [value], 1):
            yield (location := ("row", number)), as_row({"text": row} if isinstance(row, str) else row, location)
        position = NEXT_VALUE.match(text, position).end()


def parse_line(line: str, number: int, options: dict) -> object:
    """Return the value of one line.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(line, **options)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise LimitError(f"line {number}: {too_deep()}") from None


def describe_fault(error: json.JSONDecodeError, start: int) -> str:
    """Return where and why a file is not JSON, and the fix of a common fault.

    Args:
        start: the index in the text at which the value begins.
    """
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    after = rest.removeprefix(",").lstrip()
    if not rest:
        return f"line {error.lineno}: the file ends within a value: close each list with ] and each object with }}"
    if error.pos == start and rest[0] == ",":
        return f"line {error.lineno}: remove the commas between the objects, or enclose all objects in [ and ]"
    if after[:1] in ("]", "}") and (rest[0] == "," or before.endswith(",")):
        line = error.lineno + rest[: len(rest) - len(after)].count("\n")  # Python 3.13 reports the comma
        return f"line {line}: remove the comma before {after[0]}"
    return f"line {error.lineno} is not JSON: {error.msg} at column {error.colno}"


def check_lines(path: Path) -> None:
    """Raise LimitError if a line of a file is too long."""
    limit, size, start = limit_of(MAX_ROW_BYTES), path.stat().st_size, 0
    if size <= limit:
        return
    with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        while size - start > limit:
            end = content.rfind(b"\n", start, start + limit + 1)
            if end < 0:
                error, number = exceeded(MAX_ROW_BYTES, "it has", "bytes"), content[:start].count(b"\n") + 1
                raise LimitError(f"line {number}: {error}")
            start = end + 1


def has_row_per_line(path: Path) -> bool:
    """Return whether each line of a JSON file is a separate value, judged by the first non-empty line."""
    with path.open(encoding="utf-8-sig") as stream:
        first = next((line for line in stream if line.strip()), "")
    try:
        return not isinstance(json.loads(first), list)
    except RecursionError:
        return not first.lstrip().startswith("[")
    except ValueError:
        return not first.lstrip().startswith(("[", "{"))


def unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """Return an object from its keys and values.

    Raises:
        ValueError: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def as_row(value: object, location: tuple[str, int]) -> dict:
    """Return a row; `null` is a row without columns.

    Raises:
        ValueError: it is not an object.
    """
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{location[0]} {location[1]}: expected an object")
    return value or {}


def has_guess(kind) -> bool:
    """Return whether a type, at any depth, has a value that JSON cannot express, such as a timestamp."""
    if isinstance(kind, dict):
        return any(map(has_guess, kind.values()))
    return str(getattr(kind, "dtype", "")).startswith(GUESSED_TYPES) or (
        isinstance(kind, (List, datasets.LargeList)) and has_guess(kind.feature)
    )
