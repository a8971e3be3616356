"""Unpacks compressed files, up to a limit: `datasets` would unpack them without one."""

import gzip
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils.extract import Extractor

from hfkit.core.file_types import COMPRESSED, file_type, without_compression
from hfkit.core.files import hash_of, replace_file
from hfkit.core.limits import MAX_UNPACKED_RATIO, UnsafeFileError, exceeded, limit_of
from hfkit.core.temporary import remove_leftovers

TEXT_BUILDERS = ("json", "csv", "text")
SMALL = 64 << 20
"""Bytes that any compressed file may unpack to: a few rows, repeated often, compress into a small file."""
READ_BYTES = 1 << 20


def unpacked(path: Path) -> Path:
    """Return a file that `datasets` can read: the file itself, or a compressed one's unpacked content in the cache.

    Raises:
        OSError, EOFError: the file is not compressed as its suffix says, or it is truncated.
        LimitError: it unpacks to far more than its size.
        UnsafeFileError: a file is compressed, but its name has no such suffix.
    """
    if path.suffix not in COMPRESSED:
        return check_unpacked(path)
    state = path.stat()
    key = hash_of([str(path.resolve()), state.st_mtime_ns, state.st_size])[:32]
    target = Path(datasets.config.HF_DATASETS_CACHE) / "hfkit" / "unpacked" / key / without_compression(path.name)
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        with replace_file(target) as temporary, open_packed(path) as packed, temporary.open("wb") as file:
            copy_within(max(SMALL, state.st_size * limit_of(MAX_UNPACKED_RATIO)), packed, file)
    return check_unpacked(target)


def open_packed(path: Path):
    """Open a compressed file to read its unpacked content."""
    return gzip.open(path) if path.suffix == ".gz" else pa.input_stream(str(path), compression="detect")


def copy_within(limit: int, packed, file) -> None:
    """Copy a stream to a file.

    Raises:
        LimitError: it has more bytes than `limit`.
    """
    while block := packed.read(READ_BYTES):
        limit -= len(block)
        if limit < 0:
            raise exceeded(MAX_UNPACKED_RATIO, "it unpacks to", "times its size")
        file.write(block)


def check_unpacked(path: Path) -> Path:
    """Return the path of a file that is not compressed as a whole, and whose parts unpack to a reasonable size.

    Raises:
        UnsafeFileError: it is compressed, but its name has no such suffix.
    """
    if file_type(path) == "parquet":
        check_parquet(path)
    # `datasets` would unpack it whatever its name
    if file_type(path) in TEXT_BUILDERS and Extractor.infer_extractor_format(path):
        raise UnsafeFileError(f"its content is compressed: add the suffix {' or '.join(COMPRESSED)} to its name")
    return path


def check_parquet(path: Path) -> None:
    """Raise LimitError if a Parquet file declares an unpacked size far above its own."""
    data = pq.read_metadata(path)
    groups = [data.row_group(index) for index in range(data.num_row_groups)]
    held = max(sum(group.total_byte_size for group in groups), data.num_rows * data.num_columns)
    if held > max(SMALL, path.stat().st_size * limit_of(MAX_UNPACKED_RATIO)):
        raise exceeded(MAX_UNPACKED_RATIO, "it unpacks to", "times its size")
