"""Writes a folder atomically."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfkit.core.explain_errors import explain_errors
from hfkit.core.files import require_free_folder
from hfkit.core.locks import lock_folder


@contextmanager
def staged_folder(out: Path, doing: str) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `out` at the end; after a failure nothing is left.

    Args:
        doing: what the block does, such as "merging", for the folder's name and the message of another process.

    Raises:
        HfkitError: another process writes into `out`, the disk is full, or `out` was created in the meantime.
    """
    out = out.absolute()
    staging = out.parent / f".{out.name}.{doing}"
    with lock_folder(staging, doing), explain_errors(staging.parent):
        try:
            for left in staging.iterdir():  # by a killed process
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            (staging / out.name).mkdir()
            yield staging / out.name
            require_free_folder(out)
            os.replace(staging / out.name, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
