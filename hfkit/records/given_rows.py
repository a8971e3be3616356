"""Names the rows that Python code passed as objects: their path is one in the cache, which users do not know."""

import re
from pathlib import PurePath

GIVEN = "rows passed from Python"
STORED_NAME = re.compile(r"[0-9a-f]{16}(\.jsonl)?")
"""The name of a file or folder of such rows: a hash of their content."""
STORED_FOLDER = ("hfkit", "rows")
"""The last parts of the path of their folder in the cache of `datasets`, of any machine."""


def is_given(path: str) -> bool:
    """Return whether a path, which a published record shortens to its last part, is that of such rows."""
    *folders, name = PurePath(path).parts or ("",)
    return STORED_NAME.fullmatch(name) is not None and (not folders or tuple(folders[-2:]) == STORED_FOLDER)


def name_of_rows(path: str) -> str:
    """Return the name of a local source of rows: the last part of its path, or that it was passed from Python."""
    return GIVEN if is_given(path) else PurePath(path).name
