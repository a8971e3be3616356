"""Explains errors of a full disk, a full GPU and a trainer in one line, with what to change."""

import errno
import shutil
from contextlib import contextmanager
from pathlib import Path

from hfkit.core.errors import HfkitError, reason
from hfkit.core.out_of_memory import explain_out_of_memory

FULL = 1 << 16  # bytes free, below which a failure means that the disk is full


@contextmanager
def explain_errors(folder: Path, config=None):
    """Turn errors of a block that the user can act on into one line; other errors pass.

    Args:
        folder: where the block writes.
        config: names the keys to change; its `extra` fields go to the trainer unchecked.

    Raises:
        HfkitError: the disk or the GPU is full, or anything was raised while the config has `extra` fields.
    """
    extra = getattr(config, "extra", {})
    try:
        with explain_out_of_memory(config):
            yield
    except HfkitError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(folder).free < FULL:
            raise HfkitError(f"no space left in {folder} ({reason(error)}): free some, then start again") from error
        if extra:
            remedy = f"check {', '.join(extra)}, which the trainer gets as they are (HFKIT_DEBUG=1 shows the traceback)"
            raise HfkitError(f"the trainer failed: {reason(error)}; {remedy}") from error
        raise
