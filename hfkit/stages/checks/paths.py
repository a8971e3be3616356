"""Validates paths of files that do not exist; imports no heavy library."""

import os
import re

from hfkit.core.errors import Kind, Problem
from hfkit.core.file_types import suffix_of
from hfkit.core.hub_ids import HUB_ID
from hfkit.core.missing_paths import no_such

SHELL_VARIABLE = re.compile(r"\$\{[A-Za-z_]\w*\}|(^|/)\$[A-Za-z_]\w*")
"""An environment variable as shells write it: `${NAME}`, or `$NAME` where a part of a path begins."""


def missing_file_problem(path: str) -> Problem | None:
    """Return the problem of a dataset's path that is neither a file or folder nor may be the id of one on the Hub."""
    if os.path.exists(path):
        return None
    if not HUB_ID.match(path):
        return missing_path_problem(path)
    return Problem("path", path, no_such("file", path), Kind.NO_SUCH_FILE) if suffix_of(path) else None


def missing_path_problem(path: str) -> Problem:
    """Return the problem of a path that does not exist and is not a Hub id, such as a pattern or a URL."""
    if remedy := variable_remedy(path):
        return Problem("path", path, remedy)
    if path.startswith("file:"):
        return Problem("path", path, "expected a path, not a URL: remove file://")
    if re.match(r"\w[\w+.-]+:/", path):
        return Problem("path", path, "hfkit reads no URLs outside the Hub: download the file and name it")
    if "\\" in path and os.sep != "\\":
        return Problem("path", path, "a path of Windows: write the file's path on this system, with / instead of \\")
    if "*" in path:
        return Problem("path", path, "patterns are not supported: name the folder, or list the files")
    if path.startswith(("[", "{")):
        return Problem("path", path, "write FILE FILE without brackets, or '[{path: FILE}]' in quotes")
    if "," in path:
        return Problem("path", path, f"names several files: write a list, [{', '.join(path.split(','))}]")
    return Problem("path", path, no_such("file, and not a Hub id", path), Kind.NO_SUCH_FILE)


def variable_remedy(path: str) -> str | None:
    """Return what to write instead of a path with an environment variable, or None if it has none."""
    if os.path.exists(path) or not SHELL_VARIABLE.search(path):
        return None
    return "environment variables are not read in a config: write the path, or pass it as a flag from the shell"
