"""Appends to files of JSON lines so that a killed process or a full disk loses no line that was reported as written."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hfkit.core.limits import UnsafeFileError, load_json


def read_appended(path: Path) -> list[dict]:
    """Return the objects in a file that `append_lines` wrote; [] if there is none.

    A last line that a killed process cut off is removed from the file; a complete one gets its line break.

    Raises:
        UnsafeFileError: another line is not a JSON object; then the file does not change.
        OSError: it cannot be read, or its last line cannot be removed.
    """
    content = path.read_bytes() if path.is_file() else b""
    size = content.rfind(b"\n") + 1
    # not splitlines, which also splits at characters that JSON does not escape
    rows = [load_object(line, number) for number, line in enumerate(content[:size].split(b"\n")[:-1], 1)]
    if size < len(content):
        try:
            rows.append(load_object(content[size:], len(rows) + 1))
        except UnsafeFileError:
            if not content[size:].startswith(b"{"):  # the file is something else
                raise
            os.truncate(path, size)
        else:
            with path.open("ab") as file:
                file.write(b"\n")
    return rows


def load_object(line: bytes, number: int) -> dict:
    """Return the object on a line.

    Raises:
        UnsafeFileError: it is not a JSON object; the message has the line's number.
    """
    try:
        value = load_json(line.decode())
    except ValueError as error:
        raise UnsafeFileError(f"line {number} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UnsafeFileError(f"line {number} is not a JSON object")
    return value


def append_lines(path: Path, rows: Iterable[Any], mode: int = 0o666) -> None:
    """Append JSON lines in one write, and return when they are on the disk.

    Args:
        mode: permissions of a new file.

    Raises:
        OSError: they cannot be written; then none of them is in the file.
        UnicodeEncodeError: UTF-8 cannot hold a text; then none of them is in the file.
    """
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    try:
        before = os.fstat(handle).st_size
        try:
            if (written := os.write(handle, data)) < len(data):
                raise OSError(f"{path}: {written} of {len(data)} bytes written")
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder through to the disk, so that a new file survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
