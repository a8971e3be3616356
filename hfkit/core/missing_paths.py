"""Reports a path that does not exist, with the one that was probably meant."""

import os
from itertools import islice
from pathlib import Path

from hfkit.core.errors import nearest
from hfkit.core.names import is_utf8

MAX_NAMES = 1000
"""How many names of a folder are compared."""


def no_such(kind: str, path: str) -> str:
    """Return `no such KIND`, with the existing path that `path` probably misspells, if there is one.

    Args:
        kind: what is missing; a folder is suggested for `folder...`, a file for all others.
        path: as the user wrote it.
    """
    guess = similar_path(Path(path), is_folder=kind.startswith("folder"))
    return f"no such {kind}; did you mean {guess}?" if guess else f"no such {kind}"


def similar_path(path: Path, is_folder: bool) -> Path | None:
    """Return an existing path whose parts are those of `path` or similar to them, or None."""
    parent = path.parent if os.path.isdir(path.parent) else None
    if parent is None and path.parent.name not in ("", ".."):
        parent = similar_path(path.parent, is_folder=True)
    if parent is None:
        return None
    try:
        with os.scandir(parent) as entries:
            first = islice(entries, MAX_NAMES)
            names = [entry.name for entry in first if entry.is_dir() == is_folder and is_shown(entry.name)]
    except OSError:
        return None
    guess = nearest(path.name, names)
    return parent / guess if guess else None


def is_shown(name: str) -> bool:
    """Return whether a file or folder may be suggested: hidden ones, and those that cannot be printed, may not."""
    return not name.startswith(".") and is_utf8(name)
