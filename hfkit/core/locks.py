"""Locks a folder, so that only one process at a time writes into it."""

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path

from hfkit.core.console import is_main_process
from hfkit.core.errors import HfkitError, reason
from hfkit.core.temporary import remove_leftovers


@contextmanager
def lock_folder(folder: Path, doing: str = "training"):
    """Create a folder and lock it against other processes; the lock ends with the block, or with the process.

    Also remove the temporary files that killed processes left in it.

    Args:
        doing: what this process is doing, such as "training", for the message of another process.

    Raises:
        HfkitError: the folder cannot be created, or another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfkitError(f"cannot create {folder}: {reason(error)}: choose another folder") from error
    if not is_main_process():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise HfkitError(f"another process is {doing} into {folder}: wait for it, or choose another folder") from error
    except OSError:
        pass  # a file system without locks
    remove_leftovers(folder)
    try:
        yield
    finally:
        os.close(handle)
