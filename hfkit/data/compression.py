"""Unpack compressed files that the readers of `datasets` do not unpack."""

import os
import shutil
from pathlib import Path

import datasets
import pyarrow as pa

from hfkit.core.file_types import COMPRESSED, file_type, without_compression
from hfkit.core.files import hash_of

UNPACKED_BY_DATASETS = ("json", "csv", "text")
"""The builders of `datasets` that unpack `.gz` files; for `.zst` they need a further package."""


def unpacked(path: Path) -> Path:
    """Return a file that `datasets` can read: the file itself, or what a compressed one holds, in the cache.

    Raises:
        OSError: the file is not compressed as its name says, or it is cut short.
    """
    if path.suffix not in COMPRESSED or (path.suffix == ".gz" and file_type(path) in UNPACKED_BY_DATASETS):
        return path
    state = path.stat()
    key = hash_of([str(path.resolve()), state.st_mtime_ns, state.st_size])[:32]
    target = Path(datasets.config.HF_DATASETS_CACHE) / "hfkit" / "unpacked" / key / without_compression(path.name)
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{os.getpid()}.tmp")
        try:
            with pa.input_stream(str(path), compression="detect") as packed, temporary.open("wb") as file:
                shutil.copyfileobj(packed, file)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target
