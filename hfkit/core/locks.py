"""One process at a time in a folder, and the errors of a full disk or GPU in a sentence."""

import errno
import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from hfkit.core.console import is_main_process
from hfkit.core.errors import HfkitError, reason
from hfkit.core.out_of_memory import explain_out_of_memory

FULL = 1 << 16  # bytes free, below which a failure to write is the disk's doing


@contextmanager
def lock_folder(folder: Path, doing: str = "training"):
    """Makes the folder and keeps every other process from doing the same into it; the lock ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfkitError(f"cannot make {folder}: {reason(error)}") from error
    if not is_main_process():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise HfkitError(
            f"another process is {doing} into {folder}: wait for it, or choose another folder to write to"
        ) from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def explain_errors(folder: Path, config=None):
    """Says in a line that a disk or a GPU is full, or that a trainer stumbled over a field that is its own."""
    extra = getattr(config, "extra", {})
    try:
        with explain_out_of_memory(config):
            yield
    except HfkitError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(folder).free < FULL:
            raise HfkitError(f"no space left in {folder} ({reason(error)}): make room, then start again") from error
        if extra:
            remedy = f"one of {', '.join(extra)} may be to blame (HFKIT_DEBUG=1 shows where)"
            raise HfkitError(f"the trainer gave up: {reason(error)}; {remedy}") from error
        raise
