"""Validates names of files and folders: the libraries that hfkit uses cannot read or write all of them."""

import os
from pathlib import Path

from hfkit.core.errors import HfkitError, nearest

LONGEST_PATH = 4096 - 256
"""Maximum bytes in the path of an output folder: Linux allows 4,096, which must include the names of its files."""
MANY_FILES = 1000
"""Maximum number of files in a folder whose names are compared with a misspelt one."""
NOT_UTF8 = "not valid UTF-8, which the libraries need: rename the file or folder, or correct the text"


def is_utf8(text: str) -> bool:
    """Return whether a name is valid UTF-8; Python represents other bytes as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def folder_name_fault(path: Path) -> str | None:
    """Return why the name of a path is invalid for a folder, or None."""
    if not is_utf8(str(path)):
        return NOT_UTF8
    try:
        length = len(os.fsencode(path.absolute()))
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # for example a name of more than 255 bytes
        return f"not a valid folder name: {os.strerror(error.errno or 0)}"
    except ValueError as error:  # a null byte
        return f"not a valid folder name: {error}"
    return None if length < LONGEST_PATH else f"a path of {length:,} bytes: choose a path of less than {LONGEST_PATH:,}"


def did_you_mean(path: str) -> str:
    """Return the end of a message about a path that does not exist: a path next to it with a similar name, or ""."""
    folder, name = os.path.split(os.path.normpath(path))
    try:
        others = [other for other in os.listdir(folder or ".") if not other.startswith(".") and is_utf8(other)]
    except (OSError, ValueError):
        return ""
    found = nearest(name, others) if len(others) <= MANY_FILES else None
    return f"; did you mean {os.path.join(folder, found)}?" if found else ""


def require_working_folder() -> None:
    """Raise HfkitError if the current folder was removed, or its path is not UTF-8."""
    try:
        folder = os.getcwd()
    except FileNotFoundError as error:
        raise HfkitError("the current folder was removed: change to another one") from error
    if not is_utf8(folder):
        raise HfkitError(f"the path of the current folder, {folder!r}, is {NOT_UTF8}")
