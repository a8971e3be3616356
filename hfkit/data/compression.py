"""Unpacks compressed files, up to a limit: `datasets` would unpack them without one."""

import gzip
from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.utils.extract import Extractor

from hfkit.core.file_types import COMPRESSED, file_type, without_compression
from hfkit.core.files import hash_of, replace_file
from hfkit.core.limits import MAX_UNPACKED_RATIO, UnsafeFileError, exceeded, limit_of
from hfkit.core.temporary import remove_leftovers

TEXT_BUILDERS = ("json", "csv", "text")
SMALL = 64 << 20
"""Bytes that any compressed file may unpack to (a few rows, repeated often, compress into a small file), and size of a
Parquet file up to which its texts are measured."""
READ_BYTES = 1 << 20
BATCH_ROWS = 1024


def unpacked(path: Path) -> Path:
    """Return a file that `datasets` can read: the file itself, or a compressed one's unpacked content in the cache.

    Raises:
        OSError, EOFError: the file is not compressed as its suffix says, or it is truncated.
        LimitError: it unpacks to far more than its size.
        UnsafeFileError: a file is compressed, but its name has no such suffix.
    """
    if path.suffix not in COMPRESSED:
        return check_unpacked(path)
    target = file_in_cache(path, without_compression(path.name))
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        with replace_file(target) as temporary, open_packed(path) as packed, temporary.open("wb") as file:
            copy_within(largest_unpacked(path), packed, file)
    return check_unpacked(target)


def file_in_cache(path: Path, name: str) -> Path:
    """Return the path of a file in the cache that belongs to a file as it is now."""
    state = path.stat()
    key = hash_of([str(path.resolve()), state.st_mtime_ns, state.st_size])[:32]
    return Path(datasets.config.HF_DATASETS_CACHE) / "hfkit" / "unpacked" / key / name


def largest_unpacked(path: Path) -> int:
    """Return how many bytes a file may unpack to."""
    return max(SMALL, path.stat().st_size * limit_of(MAX_UNPACKED_RATIO))


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
    """Raise LimitError if a Parquet file unpacks to far more than its size.

    Its metadata has the sizes of pages and numbers of values, but not the size of texts, which a dictionary stores
    once. These are added up in files of up to `SMALL` bytes: in larger ones that would take minutes.
    """
    data, limit = pq.read_metadata(path), largest_unpacked(path)
    groups = [data.row_group(index) for index in range(data.num_row_groups)]
    values = sum(group.column(index).num_values for group in groups for index in range(data.num_columns))
    held = max(sum(group.total_byte_size for group in groups), data.num_rows * data.num_columns, values)
    if held > limit or (path.stat().st_size <= SMALL and exceeds(path, data.schema, limit)):
        raise exceeded(MAX_UNPACKED_RATIO, "it unpacks to", "times its size")


def exceeds(path: Path, schema: pq.ParquetSchema, limit: int) -> bool:
    """Return whether the texts of a Parquet file have more than `limit` bytes in total; save that they do not."""
    measured = file_in_cache(path, "measured")
    if measured.is_file():
        return False
    columns = [schema.column(index) for index in range(len(schema))]
    for column in (column.path for column in columns if column.physical_type == "BYTE_ARRAY"):
        try:
            for batch in pq.ParquetFile(path, read_dictionary=[column]).iter_batches(BATCH_ROWS, columns=[column]):
                limit -= sum(map(text_bytes, batch.columns))
                if limit < 0:
                    return True
        except OSError:  # an encoding that pyarrow cannot read so, and that repeats no texts; or the file is damaged
            continue
    with suppress(OSError):  # a cache that cannot be written to
        measured.parent.mkdir(parents=True, exist_ok=True)
        measured.touch()
    return False


def text_bytes(array: pa.Array) -> int:
    """Return the number of bytes of all texts that dictionaries of an array stand for, at any depth."""
    if isinstance(array, pa.ExtensionArray):
        return text_bytes(array.storage)
    if isinstance(array, pa.DictionaryArray):
        return pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0
    if isinstance(array, pa.StructArray):
        return sum(map(text_bytes, array.flatten()))
    return text_bytes(array.flatten()) if isinstance(array, (pa.ListArray, pa.LargeListArray)) else 0
