"""Rows of several sources as one data set: the same columns, of the same kinds."""

from functools import partial

import datasets
from datasets import Dataset, Features

from hfkit.core.errors import HfkitError
from hfkit.data.caching import Versioned
from hfkit.data.conversions import MESSAGES

# Columns that hold text in one source and messages in another are messages in all; who says a text of theirs.
ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant", "response": "assistant"}
ROLES |= {"completion": "assistant"}
# As `datasets` reads turns of which only some have a field; its earlier versions have no such type.
JSON = getattr(datasets, "Json", ())


def concatenate_sources(tables: list[Dataset], names: list[str]) -> Dataset:
    """The rows of all tables, one after another.

    Text joins messages as a turn of its own, prompt and response join `messages` as a conversation, and messages with
    fields of their own (`tool_calls`, a name) join those without.

    Raises:
        HfkitError: their columns differ; each source and its columns are named.
    """
    if len(tables) == 1:
        return tables[0]
    if any("messages" in table.column_names for table in tables):
        tables = [as_conversations(table) for table in tables]
    if any("tools" in table.column_names for table in tables):
        tables = [table if "tools" in table.column_names else with_empty_tools(table) for table in tables]
    if len({tuple(sorted(table.column_names)) for table in tables}) > 1:
        columns = dict(zip(names, (tuple(table.column_names) for table in tables), strict=True))
        raise HfkitError(f"the data sets have different columns: {columns}; map them with columns: {{...}}")
    for column in ROLES.keys() & {*tables[0].column_names}:
        if len({isinstance(table.features[column], datasets.List) for table in tables}) > 1:
            tables = [as_message_column(table, column) for table in tables]
    features = tables[0].features
    for table in tables[1:]:
        for column, kind in table.features.items():
            common = common_feature(features[column], kind)
            if common is None:
                kinds = {name: str(table.features[column]) for name, table in zip(names, tables, strict=True)}
                raise HfkitError(f"the column {column!r} is not the same in all data sets: {kinds}")
            features = Features({**features, column: common})
    order = [*features]
    tables = [table.select_columns(order) for table in tables]
    return datasets.concatenate_datasets(
        [table if table.features == features else table.cast(features) for table in tables]
    )


def common_feature(one, other):
    """The feature type that both can be cast to without a loss; None where there is none."""
    if one == other:
        return one
    for kind, alternative in ((one, other), (other, one)):
        if kind == datasets.Value("null") or (isinstance(kind, dict) and isinstance(alternative, JSON)):
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
    """Rows of prompt and response as `messages`; any other rows as they are."""
    said = {*table.column_names} - {"tools"}
    if said not in ({"prompt", "response"}, {"prompt", "completion"}):
        return table
    others, turns = {name: kind for name, kind in table.features.items() if name not in said}, MESSAGES
    for kind in (table.features[name] for name in said):
        turns = common_feature(turns, kind) if isinstance(kind, datasets.List) else turns
    if turns is None:  # lists of something else
        return table
    features = Features({**others, "messages": turns})
    return table.map(Versioned.of(to_conversation), remove_columns=[*said], features=features)


def with_empty_tools(table: Dataset) -> Dataset:
    """Rows in which nothing can be called, among others in which something can."""
    return table.add_column("tools", [None] * len(table))


def to_conversation(row: dict) -> dict:
    """Prompt and reply as one conversation; without a prompt there is none."""
    reply = row.get("response") or row.get("completion") or []
    return {"messages": message_list(row["prompt"], "user") + message_list(reply, "assistant") if row["prompt"] else []}


def as_message_column(table: Dataset, column: str) -> Dataset:
    """A text column as a column of messages."""
    if isinstance(table.features[column], datasets.List):
        return table
    features = Features({**table.features, column: MESSAGES})
    return table.map(Versioned.of(partial(to_message_list, column=column)), features=features)


def to_message_list(row: dict, column: str) -> dict:
    """A text as one turn."""
    return {column: message_list(row[column] or [], ROLES[column])}


def message_list(given: object, role: str) -> list:
    """Text as one turn, messages as they are; of anything else a turn that is none, for which the row is dropped."""
    if isinstance(given, str):
        return [{"role": role, "content": given}]
    return given if isinstance(given, list) else [None]
