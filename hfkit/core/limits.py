"""Limits on untrusted files, so that reading one cannot take unbounded time or memory.

An environment variable of the same name raises a limit for a file that the user trusts.
"""

import json
import os
from typing import Any

from hfkit.core.errors import HfkitError

MAX_DEPTH = "HFKIT_MAX_DEPTH"
MAX_FILE_DEPTH = "HFKIT_MAX_FILE_DEPTH"
MAX_ROW_BYTES = "HFKIT_MAX_ROW_BYTES"
MAX_COLUMNS = "HFKIT_MAX_COLUMNS"
MAX_KEY_LENGTH = "HFKIT_MAX_KEY_LENGTH"
MAX_UNPACKED_RATIO = "HFKIT_MAX_UNPACKED_RATIO"
MAX_YAML_BYTES = "HFKIT_MAX_YAML_BYTES"
MAX_YAML_VALUES = "HFKIT_MAX_YAML_VALUES"
MAX_TEXT_BYTES = "HFKIT_MAX_TEXT_BYTES"
TEMPLATE_LIMITS = "HFKIT_TEMPLATE_LIMITS"
LIMITS = {
    MAX_DEPTH: 64,  # nested lists and objects in rows and YAML
    MAX_FILE_DEPTH: 400,  # the same in a JSON file that is not data: two for each generation in a record
    MAX_ROW_BYTES: 16 << 20,  # of a line, or of a value in a column
    MAX_COLUMNS: 10_000,  # columns and fields of all rows
    MAX_KEY_LENGTH: 1_000,  # characters
    MAX_UNPACKED_RATIO: 300,  # size of an unpacked file, as a multiple of the packed one
    MAX_YAML_BYTES: 1 << 20,  # of a YAML file, or of a card's front matter
    MAX_YAML_VALUES: 100_000,  # in it, aliases followed
    MAX_TEXT_BYTES: 256 << 20,  # of a card, or of a JSON file that is not data
    TEMPLATE_LIMITS: 1,  # factor of the limits of chat templates (`data/template_limits.py`)
}
"""The default of each limit."""


class UnsafeFileError(HfkitError, ValueError):
    """An untrusted file is not read; the message says why and what to do."""


class LimitError(UnsafeFileError):
    """A file exceeds a limit; the message names the limit and how to raise it."""


def limit_of(name: str) -> int:
    """Return a limit: the value of its environment variable, or the default.

    Raises:
        HfkitError: the variable is not an integer above 0.
    """
    given = os.environ.get(name, str(LIMITS[name]))
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise HfkitError(f"{name}: {given!r} -> expected an integer above 0")
    return int(given)


def exceeded(name: str, what: str, unit: str) -> LimitError:
    """Return the error for an exceeded limit: exceeded(MAX_DEPTH, "it is nested", "levels deep")."""
    return LimitError(f"{what} more than {limit_of(name):,} {unit}; if you trust the file, raise the limit {name}")


def too_deep(limit: str = MAX_DEPTH) -> LimitError:
    """Return the error for lists and objects that are nested too deeply."""
    return exceeded(limit, "its values are nested", "levels deep")


def load_json(text: str, limit: str = MAX_DEPTH) -> Any:
    """Return the value of untrusted JSON text.

    Args:
        limit: name of the limit on its depth.

    Raises:
        ValueError: it is not JSON, or (`LimitError`) nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise too_deep(limit) from None
    check_depth(text, value, limit)
    return value


def check_depth(text: str, value: object, limit: str = MAX_DEPTH) -> None:
    """Raise a LimitError if the value of a JSON text is nested too deeply."""
    depth = limit_of(limit)
    if text.count("[") + text.count("{") <= depth:
        return
    level: list = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        inner = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return
    raise too_deep(limit)
