"""Concatenates the rows of several sources, after casting their columns to common types."""

from functools import partial

import datasets
from datasets import Dataset, Features, Json

from hfkit.core.errors import HfkitError
from hfkit.data.caching import map_rows
from hfkit.data.conversions import MESSAGES
from hfkit.data.rendering import TEMPLATE_KWARGS

# Columns that may hold text in one source and messages in another, and the role of text in them.
TEXT_ROLES = {"prompt": "user", **dict.fromkeys(("chosen", "rejected", "response", "completion"), "assistant")}


def concatenate_sources(tables: list[Dataset], names: list[str]) -> Dataset:
    """Return the rows of all tables, one after another.

    If only some sources have messages, text becomes one message, and prompt and response become one conversation in
    `messages`. Messages with more fields (`tool_calls`, a name) are concatenated with those without.

    Raises:
        HfkitError: the columns differ; the message names each source and its columns.
    """
    if len(tables) == 1:
        return tables[0]
    if any("messages" in table.column_names for table in tables):
        tables = [as_conversations(table) for table in tables]
    for name in ("tools", TEMPLATE_KWARGS):
        if any(name in table.column_names for table in tables):
            tables = [one if name in one.column_names else one.add_column(name, [None] * len(one)) for one in tables]
    if len({tuple(sorted(table.column_names)) for table in tables}) > 1:
        columns = dict(zip(names, (tuple(table.column_names) for table in tables), strict=True))
        is_mixed = len({"replies" in table.column_names for table in tables}) > 1
        remedy = "pairs and rankings (also from KTO) cannot be mixed" if is_mixed else "map them with columns: {...}"
        raise HfkitError(f"the datasets have different columns: {columns}; {remedy}")
    for column in TEXT_ROLES.keys() & {*tables[0].column_names}:
        if any(isinstance(table.features[column], datasets.List) for table in tables):
            tables = [as_message_column(table, column) for table in tables]
    features = tables[0].features
    for table in tables[1:]:
        for column, kind in table.features.items():
            common = common_feature(features[column], kind)
            if common is None:
                kinds = {name: str(table.features[column]) for name, table in zip(names, tables, strict=True)}
                raise HfkitError(f"the column {column!r} has different types in the datasets: {kinds}")
            features = Features({**features, column: common})
    tables = [table.select_columns([*features]) for table in tables]
    tables = [table if table.features == features else table.cast(features) for table in tables]
    return datasets.concatenate_datasets(tables)


def common_feature(one, other):
    """Return the feature type that both can be cast to without loss, or None."""
    if one == other:
        return one
    for kind, alternative in ((one, other), (other, one)):
        if kind == datasets.Value("null") or (isinstance(kind, dict) and isinstance(alternative, Json)):
            return alternative
    if isinstance(one, datasets.List) and isinstance(other, datasets.List):
        item = common_feature(one.feature, other.feature)
        return None if item is None else datasets.List(item)
    if isinstance(one, dict) and isinstance(other, dict):
        both = {name: common_feature(one[name], other[name]) for name in one.keys() & other.keys()}
        return None if None in both.values() else {**one, **other, **both}
    numbers = [isinstance(kind, datasets.Value) and kind.dtype.startswith(("int", "float")) for kind in (one, other)]
    return datasets.Value("float64") if all(numbers) else None


def as_conversations(table: Dataset) -> Dataset:
    """Return rows of prompt and response as `messages`, and other rows unchanged."""
    columns = {*table.column_names} - {"tools"}
    if columns not in ({"prompt", "response"}, {"prompt", "completion"}):
        return table
    others, messages = {name: kind for name, kind in table.features.items() if name not in columns}, MESSAGES
    for kind in (table.features[name] for name in columns):
        messages = common_feature(messages, kind) if isinstance(kind, datasets.List) else messages
    if messages is None:  # lists of other values
        return table
    features = Features({**others, "messages": messages})
    return map_rows(table, to_conversation, remove_columns=[*columns], features=features)


def to_conversation(row: dict) -> dict:
    """Return prompt and response as one conversation, empty without a prompt."""
    reply = row.get("response") or row.get("completion") or []
    return {"messages": message_list(row["prompt"], "user") + message_list(reply, "assistant") if row["prompt"] else []}


def as_message_column(table: Dataset, column: str) -> Dataset:
    """Return a table with a text column as a column of messages."""
    if isinstance(table.features[column], datasets.List):
        return table
    features = Features({**table.features, column: MESSAGES})
    return map_rows(table, partial(to_message_list, column=column), features=features)


def to_message_list(row: dict, column: str) -> dict:
    """Return the column of a row as messages."""
    return {column: message_list(row[column] or [], TEXT_ROLES[column])}


def message_list(given: object, role: str) -> list:
    """Return text as one message, messages unchanged, and [None] for anything else, so that its row is dropped."""
    if isinstance(given, str):
        return [{"role": role, "content": given}]
    return given if isinstance(given, list) else [None]
