"""Reads data files, saved datasets and datasets on the Hub with `datasets`, and explains read errors.

The file types and their builders are listed in `hfkit/core/file_types.py`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hfkit.core.console import warn
from hfkit.core.errors import HfkitError, reason
from hfkit.core.explain_errors import chain_of, explain_file_error
from hfkit.core.file_types import ROW_PER_LINE, file_type, suffix_of
from hfkit.core.hub_retry import cached_if_unreachable
from hfkit.core.limits import UnsafeFileError
from hfkit.data.compression import unpacked
from hfkit.data.file_sets import file_options, read_dataset, read_files
from hfkit.data.given_rows import name_in_messages
from hfkit.data.json_rows import json_shape
from hfkit.data.json_shapes import row_features
from hfkit.data.progress import progress_bars
from hfkit.data.row_sizes import check_sizes
from hfkit.data.source_files import STATE, check_saved, is_saved, without_decoding
from hfkit.records.given_rows import GIVEN


def builder_of(path: Path) -> str | None:
    """Return the builder of `datasets` that reads a file, or None if there is none."""
    return file_type(path) if path.is_file() else None


def builder_arguments(path: Path) -> dict | None:
    """Return the arguments of `load_dataset` for a single file, or None if it cannot be read.

    Raises:
        ValueError: JSON that cannot be read, or without an object.
    """
    kind = builder_of(path)
    if kind is None:
        return None
    path = unpacked(path)
    options = {"features": row_features(json_shape([path]))} if kind == "json" else file_options(kind, path)
    return {"path": kind, "data_files": escape(str(path)), **options}


DAMAGED = (pa.ArrowException, json.JSONDecodeError, OSError)
"""Errors raised by reading a damaged file in the cache."""


def read_rows(source: dict) -> tuple[Dataset, bool]:
    """Return all rows of a file, a saved dataset or a dataset on the Hub, and whether they are text from CSV.

    Args:
        source: arguments of `load_dataset`, including `path` and `split`.

    Raises:
        HfkitError: the data does not exist or cannot be read; for a text file, the message names the line.
    """
    path = Path(source["path"])
    try:
        try:
            with cached_if_unreachable(path):
                return read_once(source)
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno:
                raise
            with other_cache() as other:  # if this fails too, the dataset itself is damaged
                found = read_once(source)
            cache = datasets.config.HF_DATASETS_CACHE
            warn(f"the cache of `datasets` in {cache} is damaged ({reason(error)}): {path} was read into {other}")
            return found
    except Exception as error:  # readers raise errors of many types
        raise read_error(path, error) from error


@contextmanager
def other_cache() -> Iterator[Path]:
    """Let `datasets` use a separate cache in the block, because its usual one is damaged."""
    usual = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = other = Path(usual) / "hfkit" / "datasets"
    try:
        yield other
    finally:
        datasets.config.HF_DATASETS_CACHE = usual


def read_once(source: dict) -> tuple[Dataset, bool]:
    """Return the result of `read_rows`; raise the errors of the readers."""
    path, split = Path(source["path"]), source["split"]
    kind = builder_of(path)
    if kind:
        with progress_bars(0):
            rows, is_csv = read_files(kind, [path], split), kind == "csv"
    elif is_saved(path):
        check_saved(path)
        saved = datasets.load_from_disk(str(path))
        splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        if split not in splits:
            raise ValueError(f"a saved dataset has no split {split!r}; choose one of {[*splits]}, without slicing")
        rows, is_csv = splits[split], False
    else:
        rows, is_csv = read_dataset(source)
    rows.data.validate(full=True)  # the JSON reader accepts bytes that are not UTF-8
    if not len(rows):
        raise ValueError(f"the split {split!r} has no rows")
    rows = without_decoding(rows)
    check_sizes(rows)
    return rows, is_csv


def read_error(path: Path, error: Exception) -> HfkitError:
    """Return the error for a dataset that cannot be read."""
    refused = next((one for one in chain_of(error) if isinstance(one, UnsafeFileError)), None)
    is_text = builder_of(path) in ("json", "text", "csv")
    if refused:
        cause = str(refused)
    else:
        cause = "it is empty" if is_empty(path) else find_broken_line(path) if is_text else None
    full_cache = None if refused else explain_file_error(error)  # the disk of the cache, where rows are written
    cause = cause or reason(error)
    if name_in_messages(path) == GIVEN:  # its file in the cache has one row a line
        cause = re.sub(r"\bline (\d+)", lambda found: f"row {int(found[1]) - 1}", cause)
        return full_cache or HfkitError(f"cannot read {GIVEN}: {cause}")
    return full_cache or HfkitError(f"cannot read the dataset {path}: {cause}")


def is_empty(path: Path) -> bool:
    """Return whether a file or a saved dataset has no content or no rows."""
    if (path / STATE).is_file():
        return not any(path.glob("*.arrow"))
    try:
        return path.is_file() and (path.stat().st_size == 0 or pq.read_metadata(path).num_rows == 0)
    except (OSError, pa.ArrowException):  # it is not Parquet
        return False


def iter_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, compressed or not."""
    with unpacked(path).open("rb") as stream:
        yield from stream


def json_remedy(line: str) -> str:
    """Return the fix of a common fault of a line that is not JSON, after a colon, or ""."""
    if line.endswith("},"):
        return ": remove the comma at the end of each line"
    return ": write texts in double quotes, as json.dumps does" if line.startswith("{'") else ""


def find_broken_line(path: Path) -> str | None:
    """Return the first line that the reader of a text file rejects, and why; None if no single line is faulty."""
    is_jsonl = suffix_of(path) in ROW_PER_LINE
    try:
        for number, line in enumerate(iter_lines(path), 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if is_jsonl and text.strip():
                    row = json.loads(text)
                    if row is not None and not isinstance(row, dict):
                        return f"line {number}: expected an object"
                    json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is not valid text
            except (ValueError, RecursionError) as error:
                if isinstance(error, UnicodeDecodeError):
                    remedy = ": save the file as UTF-8"
                elif isinstance(error, json.JSONDecodeError):
                    remedy = json_remedy(text.strip())
                else:
                    remedy = ""
                return f"line {number}: {reason(error)}{remedy}"
    except (OSError, EOFError) as error:
        return reason(error)
    return None
