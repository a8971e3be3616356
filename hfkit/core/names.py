"""Names of files and folders: which of them the libraries below hfkit read and write."""

import os
from pathlib import Path

from hfkit.core.errors import HfkitError

LONGEST_PATH = 4096 - 256
"""Bytes of the longest path of a folder that is written to: Linux takes 4,096, and files in it have names too."""
NOT_UTF8 = "not UTF-8, as the libraries need it: rename the file or folder, or correct the text"


def is_utf8(text: str) -> bool:
    """Return whether a name is text; the bytes of other names are lone surrogates to Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def folder_name_fault(path: Path) -> str | None:
    """Return why there can be no folder at a path, because of its name; None if there can."""
    if not is_utf8(str(path)):
        return NOT_UTF8
    try:
        length = len(os.fsencode(path.absolute()))
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # such as a name of more than 255 bytes
        return f"not the name of a folder: {os.strerror(error.errno or 0)}"
    except ValueError as error:  # a null byte
        return f"not the name of a folder: {error}"
    return None if length < LONGEST_PATH else f"a path of {length:,} bytes: choose one below {LONGEST_PATH:,}"


def require_working_folder() -> None:
    """Raise HfkitError if the current folder is gone, or its path is not UTF-8."""
    try:
        folder = os.getcwd()
    except FileNotFoundError as error:
        raise HfkitError("the current folder was removed: change to another one") from error
    if not is_utf8(folder):
        raise HfkitError(f"the path of the current folder, {folder!r}, is {NOT_UTF8}")
