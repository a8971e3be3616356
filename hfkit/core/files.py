"""Writes files atomically, reads and writes JSON, and computes hashes."""

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from hfkit.core.errors import HfkitError
from hfkit.core.limits import MAX_FILE_DEPTH, MAX_TEXT_BYTES, UnsafeFileError, exceeded, limit_of, load_json
from hfkit.core.links import is_blob
from hfkit.core.masking import without_secrets
from hfkit.core.names import folder_name_fault
from hfkit.core.temporary import temporary_path

RECORD = "hfkit.json"  # the record of a run, in its folder


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: write a temporary file in the same folder, then rename it; remove it on failure."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` at the end, or remove it after an exception."""
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:  # a full disk, a text that UTF-8 cannot hold, Ctrl-C
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_text(path: Path, limit: str = MAX_TEXT_BYTES) -> str:
    """Return the text of an untrusted file that is not data: a card, JSON, a config.

    Args:
        limit: name of the limit on its bytes.

    Raises:
        UnsafeFileError: it is a pipe, which may never end, unless the shell made it; or (`LimitError`) it is too large.
        OSError, UnicodeDecodeError: it cannot be read.
    """
    if path.is_fifo() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
        raise UnsafeFileError("it is a pipe: pass a regular file")
    most = limit_of(limit)
    with path.open("rb") as file:
        content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if content is None or len(content) > most:
        raise exceeded(limit, "it has", "bytes")
    return content.decode("utf-8")


def load_json_file(path: Path) -> Any:
    """Return the content of an untrusted JSON file.

    Raises:
        ValueError: it is not JSON, or (`LimitError`) exceeds a limit.
        OSError: it cannot be read.
    """
    return load_json(read_text(path), MAX_FILE_DEPTH)


def write_record(path: Path, content: Any) -> None:
    """Write JSON that people read and publish: atomically, without secrets."""
    write_json(path, without_secrets(content))


def read_json_mapping(path: Path) -> dict | None:
    """Return the mapping in a JSON file; None if the file is missing, holds no mapping or exceeds a limit."""
    try:
        content = load_json_file(path) if path.is_file() else None
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def hash_of(settings: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file, read once while it is unchanged. The Hub's cache names large files by it."""
    file = file.resolve()
    if is_blob(file) and len(file.name) == 64:
        return file.name
    state = file.stat()
    return _hash_of_file(file, state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _hash_of_file(file: Path, *_state: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def folder_state(path: str) -> Hashable:
    """Return a key to cache by what the files in a folder determine; for anything else, a new key each time."""
    if not os.path.isdir(path):
        return object()
    states: list[Hashable] = [os.path.realpath(path)]
    for file in sorted(os.scandir(path), key=lambda file: file.name):
        state = file.stat(follow_symlinks=os.path.exists(file.path))  # that of a broken link itself
        states += [file.name, state.st_size, state.st_mtime_ns, state.st_ino]
    return tuple(states)


def require_free_folder(out: Path) -> None:
    """Raise HfkitError if `out` is a file, a link, a folder that is not empty, or not a valid folder name."""
    if fault := folder_name_fault(out):
        raise HfkitError(f"{str(out)!r}: {fault}")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise HfkitError(f"{out} is a file or a link: choose another folder")
    if out.is_dir() and any(out.iterdir()):
        raise HfkitError(f"{out} is not empty: choose another folder")
