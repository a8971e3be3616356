"""Names temporary files and folders after their process, and removes those of processes that have ended.

A killed process leaves them behind; the next command on the same folder removes them. Processes of several machines
may share a folder, so a name includes the machine of its process.
"""

import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = re.compile(r"\..+?\.(?:([0-9a-f]{8})\.)?(\d+)\.tmp")
"""`.NAME.MACHINE.PID.tmp`; older versions left the machine out."""
OLD = 24 * 3600
"""Seconds after which a file of another machine counts as left behind: no file is written for that long."""


def machine() -> str:
    """Return 8 hexadecimal digits that identify this machine or container: each has its own process ids."""
    namespace = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def temporary_path(path: Path) -> Path:
    """Return the temporary path at which this process writes a file or folder, in the same folder."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.tmp")


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder at the temporary path of `path`; remove it at the end, unless it was moved."""
    folder = temporary_path(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_in(folder: Path) -> list[Path]:
    """Return the temporary files and folders of all processes in a folder."""
    return [path for path in folder.glob(".*.tmp") if NAME.fullmatch(path.name)]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of ended processes; skip those that cannot be removed."""
    for path in temporary_in(folder):
        with suppress(OSError):  # another process has removed it
            if is_left(path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_left(path: Path) -> bool:
    """Return whether the process that a temporary file is named after has ended."""
    where, process = NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]  # `temporary_in` matched it
    if where != machine():
        return time.time() - path.lstat().st_mtime > OLD
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's process
    return False
