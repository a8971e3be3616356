"""Files and data sets of the Hub as `datasets` reads them, and what to tell where it cannot."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from hfkit.core.errors import HfkitError, reason
from hfkit.core.file_types import BUILDERS

# A cell that says None, NA or nan says so: only an empty one is nothing.
OPTIONS = {"csv": {"keep_default_na": False, "na_values": [""]}}
# Fewer rows than these are tokenized before a progress bar would be read.
QUIET_ROWS = 20_000


def builder_of(path: Path) -> str | None:
    """The builder that reads a file; None where it is none that can be read."""
    kind = BUILDERS.get(next((suffix for suffix in path.suffixes[::-1] if suffix in BUILDERS), ""))
    return kind if path.is_file() else None


def builder_arguments(path: Path) -> dict | None:
    """What `datasets` is asked for to read this one file; None where it is none that can be read.

    Raises:
        ValueError: JSON in which no row is; of lines that are all `null` its reader dies.
    """
    kind, is_text = builder_of(path), path.suffix in (".json", ".jsonl", ".gz")
    if kind == "json" and is_text and not any(b"{" in line for line in read_lines(path)):
        raise ValueError("no line of it is an object")
    return {"path": kind, "data_files": escape(str(path)), **OPTIONS.get(kind, {})} if kind else None


def read_rows(place: dict) -> Dataset:
    """All rows of a file, a saved data set or one of the Hub.

    Raises:
        HfkitError: there is no such thing, or it cannot be read; of a text file the line is told.
    """
    path, split = Path(place["path"]), place["split"]
    kind = builder_of(path)
    try:
        if file := builder_arguments(path):
            with progress_bars(0):
                rows = datasets.load_dataset(**file, split=split)
        elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(str(path))
            splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
            if split not in splits:
                raise ValueError(f"a saved data set has whole splits, here {[*splits]}, and no {split!r}")
            rows = splits[split]
        else:
            rows = datasets.load_dataset(**place)
        rows.data.validate(full=True)  # JSON's reader lets bytes through that are not UTF-8
        if not len(rows):
            raise ValueError(f"nothing is in {split}")
    except Exception as error:  # whatever a reader says of a file's content
        raise read_error(path, kind, error) from error
    return rows


def read_error(path: Path, kind: str | None, error: Exception) -> HfkitError:
    """What to tell of a data set that cannot be read."""
    why = "it is empty" if is_empty(path) else find_broken_line(path) if kind in ("json", "text") else None
    return HfkitError(f"cannot read the data set {path}: {why or reason(error)}")


def is_empty(path: Path) -> bool:
    """Whether a file or a saved data set holds nothing, or no row."""
    if (path / "state.json").is_file():
        return not any(path.glob("*.arrow"))
    try:
        return path.is_file() and (path.stat().st_size == 0 or pq.read_metadata(path).num_rows == 0)
    except (OSError, pa.ArrowException):  # it is no Parquet
        return False


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, be it gzipped."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
        yield from stream


def find_broken_line(path: Path) -> str | None:
    """The first line of a text file that its readers stumble over, with why; None where it is not a line's fault."""
    is_jsonl = next((suffix for suffix in path.suffixes[::-1] if suffix in BUILDERS), "") == ".jsonl"
    try:
        for number, line in enumerate(read_lines(path), 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if is_jsonl and text.strip():
                    row = json.loads(text)
                    if row is not None and not isinstance(row, dict):
                        return f"line {number}: it is no object"
                    json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no text
            except ValueError as error:
                return f"line {number}: {reason(error)}"
    except (OSError, EOFError) as error:
        return reason(error)
    return None


@contextmanager
def progress_bars(rows: int):
    """Progress bars of `datasets` where there is something to wait for."""
    quiet = rows < QUIET_ROWS and not datasets.are_progress_bars_disabled()
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            datasets.enable_progress_bars()
