"""Parses messages given as text: as JSON, or as Python prints them."""

import ast
import re
from collections.abc import Iterator

from datasets import Dataset, List, Value

from hfkit.core.errors import HfkitError
from hfkit.core.limits import load_json
from hfkit.data.json_shapes import ROLE_FIELDS

TEXTS = (Value("string"), Value("large_string"))
MESSAGES_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
"""The start of messages in text, as JSON or as Python prints them."""


def is_json_text(rows: Dataset, column: str) -> bool:
    """Return whether all texts of a column are JSON of messages; for `messages`, whether any is."""
    kind = rows.features[column]
    kind = kind.feature if column == "replies" and isinstance(kind, List) else kind
    if kind not in TEXTS:
        return False
    found = (parse_messages(text) is not None for text in iter_column_texts(rows, column) if text)
    return any(found) if column == "messages" else next(found, False) and all(found)


def iter_column_texts(rows: Dataset, column: str) -> Iterator[str | None]:
    """Yield the texts of a column, including those in its lists."""
    for row in rows.select_columns([column]):
        yield from row[column] if isinstance(row[column], list) else [row[column]]


def check_texts(rows: Dataset, columns: list[str], label: str) -> None:
    """Raise HfkitError if all texts of one of these columns look like messages that were not parsed."""
    for column in columns:
        if rows.features[column] in TEXTS:
            found = (bool(MESSAGES_TEXT.match(text)) for text in iter_column_texts(rows, column) if text)
            if next(found, False) and all(found):
                remedy = "write messages as lists or as JSON"
                raise HfkitError(f"{label}: the texts of the column {column!r} look like messages: {remedy}")


def parse_messages(text: str) -> list | None:
    """Return the messages that a text holds, as JSON or as Python prints them, or None if it holds anything else."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = load_json(text)
    except ValueError:
        try:
            found = ast.literal_eval(text.strip()) if MESSAGES_TEXT.match(text) else []
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested too deeply
            return None
    is_message = [isinstance(one, dict) and bool({*ROLE_FIELDS} & one.keys()) for one in found]
    return found if is_message and all(is_message) else None


def parse_reply(text: str | None) -> list | None:
    """Return the messages in a JSON text; for other texts [None], whose row every stage drops."""
    return text and (parse_messages(text) or [None])
