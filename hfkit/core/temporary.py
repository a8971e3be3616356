"""Temporary files and folders, named after the process that writes them: those of a process that is gone are removed.

A killed process leaves them behind, and the next command on the same folder removes them. Processes of several machines
may share a folder, so a name says on which machine its process runs.
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
"""`.NAME.MACHINE.PID.tmp`; earlier versions left the machine out."""
OLD = 24 * 3600
"""Seconds after which a file of another machine counts as left behind: no file is written for that long."""


def machine() -> str:
    """Return a name of this machine, or container: 8 hexadecimal digits. Process ids are counted in each by itself."""
    namespace = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def temporary_path(path: Path) -> Path:
    """Return where this process writes a file or folder before it gets its name, beside it."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.tmp")


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder at the temporary path of `path`, and remove it at the end, unless it was moved away."""
    folder = temporary_path(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_in(folder: Path) -> list[Path]:
    """Return the temporary files and folders in a folder, of whatever process."""
    return [path for path in folder.glob(".*.tmp") if NAME.fullmatch(path.name)]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of processes that are gone; what cannot be removed stays."""
    for path in temporary_in(folder):
        with suppress(OSError):  # another process has removed it
            if is_left(path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_left(path: Path) -> bool:
    """Return whether the process that a temporary file is named after is gone."""
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
