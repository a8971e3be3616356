"""Reads a secret from a file that only its owner can read."""

import os
import stat

from hfkit.core.errors import HfkitError, reason

MOST_CHARACTERS = 1_000


def read_secret(path: str) -> str:
    """Return the text of a file, without spaces around it.

    Raises:
        HfkitError: the file cannot be read, is no file, is readable by others, or is empty.
    """
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise HfkitError("not a file")
            if mode & 0o077:
                raise HfkitError(f"other users can read it: chmod 600 {path}")
            secret = file.read(MOST_CHARACTERS).strip()
    except (OSError, ValueError) as error:
        raise HfkitError(f"cannot be read: {reason(error)}") from error
    if not secret:
        raise HfkitError("it is empty: write the secret into it")
    return secret
