"""Normalizes conversations: messages with the usual roles, a system message, and a prompt that occurs only once.

`read_entry` does this for every source, so all stages and verbs see the same rows.
"""

from collections.abc import Iterator
from functools import partial, reduce

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Json, List, Value

from hfkit.core.errors import HfkitError
from hfkit.data.caching import map_rows
from hfkit.data.concatenation import common_feature, message_list
from hfkit.data.conversions import MESSAGES, SHAREGPT_FIELDS, TEXT_ROLE, item_fields
from hfkit.data.json_shapes import ROLE_FIELDS
from hfkit.data.message_texts import TEXTS, check_texts, is_json_text, iter_column_texts, parse_messages, parse_reply
from hfkit.data.messages import USUAL_ROLES, RenderError, normalize_message, usual_role, without_nulls

SYSTEM = "system"
"""The column whose text becomes the system message of a row."""
REPLY_COLUMNS = ("chosen", "rejected", "response", "completion", "replies")
CONVERSATION_COLUMNS = ("messages", "prompt", *REPLY_COLUMNS)
ROLE_PATTERN = r'[{,]\s*"(?:role|from)"\s*:\s*"(?P<role>[^"\\]*)"'
"""Finds the role in the JSON of a message; inside a text, its quotes would be escaped."""


def normalize_conversations(rows: Dataset, label: str) -> tuple[Dataset, dict[str, str]]:
    """Return the rows with normalized conversations, and the roles that have no usual name: {spelling: role}.

    - Messages in JSON text are parsed, and turns of {from, value} become messages.
    - A single message becomes a list of one message.
    - Roles get their usual names (`USUAL_ROLES`); unknown roles are kept and map to themselves.
    - The column `system` becomes the first message; a row with an empty `system` gets none.
    - If responses are whole conversations, their common messages become the prompt, so that it occurs once.

    Raises:
        HfkitError: there is a system column but no prompt, or it is not text; or texts that look like messages cannot
            be parsed.
    """
    columns = [column for column in CONVERSATION_COLUMNS if column in rows.column_names]
    parsed = [column for column in columns if is_json_text(rows, column)]
    listed = [column for column in columns if column in parsed or is_conversation(rows.features[column])]
    check_texts(rows, [column for column in columns if column not in parsed], label)
    roles = [role for column in listed for role in find_roles(rows, column, column in parsed)]
    unusual = {role: usual_role(role) for role in dict.fromkeys(roles) if role != TEXT_ROLE}
    unusual = {role: usual for role, usual in unusual.items() if role != usual or role not in USUAL_ROLES}
    turns = [column for column in listed if column not in parsed and has_turns(rows, column)]
    turns += [column for column in listed if is_single(rows.features[column], column)]
    has_system, is_whole = SYSTEM in rows.column_names, "prompt" in columns and {*listed} & {*REPLY_COLUMNS}
    is_renamed = any(role != usual for role, usual in unusual.items())
    if not (parsed or is_renamed or turns or has_system or is_whole or TEXT_ROLE in roles):
        return rows, unusual
    types = {column: as_list(rows.features[column], column) for column in listed}
    types = {column: conversation_feature(kind, column in parsed) for column, kind in types.items()}
    if has_system:
        first = columns_after_system(rows, columns, listed, label)
        types |= {column: joined_feature([types.get(column, MESSAGES), MESSAGES]) for column in first}
    if is_whole:
        replies = [types[column].feature if column == "replies" else types[column] for column in is_whole]
        types["prompt"] = joined_feature([types.get("prompt", MESSAGES), *replies])
    features = Features({**{name: kind for name, kind in rows.features.items() if name != SYSTEM}, **types})
    function = partial(normalize_row, parsed=parsed, columns=[*types])
    return map_rows(rows, function, features=features, remove_columns=[SYSTEM] if has_system else []), unusual


def columns_after_system(rows: Dataset, columns: list[str], listed: list[str], label: str) -> list[str]:
    """Return which of the columns begin with the text of the column `system`.

    Args:
        listed: the columns that hold messages.

    Raises:
        HfkitError: no column does, or `system` is not text.
    """
    if rows.features[SYSTEM] not in (*TEXTS, Value("null")):
        raise HfkitError(f"{label}: the column 'system' holds {rows.features[SYSTEM]}, expected text")
    first = [column for column in ("messages", "prompt") if column in columns and column in ("prompt", *listed)]
    first = first or [column for column in ("chosen", "rejected") if column in listed]
    if not first:
        remedy = "map it: datasets: [{path: ..., columns: {prompt: YOUR_COLUMN}}]"
        raise HfkitError(f"{label}: the column system needs a prompt, but there is none: {remedy}")
    return first


def is_conversation(kind) -> bool:
    """Return whether a column of this type holds messages, lists of them, or one message."""
    item = kind
    while isinstance(item, (List, datasets.LargeList)):
        item = item.feature
    is_mixed = isinstance(item, Json)  # texts in some rows, messages in others
    return is_mixed or (isinstance(item, dict) and bool({*ROLE_FIELDS} & item.keys()))


def is_single(kind, column: str) -> bool:
    """Return whether each conversation of a column is a single message instead of a list."""
    kind = kind.feature if column == "replies" and isinstance(kind, (List, datasets.LargeList)) else kind
    return isinstance(kind, dict) or (column == "replies" and isinstance(kind, Json))


def as_list(kind, column: str):
    """Return the type of a column after each of its conversations has become a list."""
    if not is_single(kind, column):
        return kind
    return List(List(kind.feature)) if column == "replies" else List(kind)


def find_roles(rows: Dataset, column: str, is_parsed: bool) -> list[str]:
    """Return the distinct roles in a column of messages, lists of messages, or their JSON texts."""
    if is_parsed:
        parsed = (parse_messages(text) for text in iter_column_texts(rows, column) if text)
        return [*dict.fromkeys(role for messages in parsed for role in iter_roles(messages))]
    kind = rows.features[column]
    if isinstance(kind, Json):
        found = dict.fromkeys(role for row in rows.select_columns([column]) for role in iter_roles(row[column]))
        return [*found]
    values, kind = flat_messages(rows, column)
    if isinstance(kind, Json):
        texts = pc.cast(values, "string")
        roles = [pc.struct_field(pc.extract_regex(texts, ROLE_PATTERN), "role")]
    else:
        roles = [pc.struct_field(values, name) for name in ROLE_FIELDS if name in kind and kind[name] in TEXTS]
    return [role for one in roles for role in pc.unique(one).to_pylist() if role]


def has_turns(rows: Dataset, column: str) -> bool:
    """Return whether a column has turns of {from, value}."""
    values, kind = flat_messages(rows, column)
    if isinstance(kind, Json):
        return bool(pc.any(pc.match_substring(pc.cast(values, "string"), '"from"')).as_py())
    return "from" in kind


def flat_messages(rows: Dataset, column: str) -> tuple[pa.ChunkedArray, object]:
    """Return the messages of a column without their lists, and their type."""
    values, kind = rows.select_columns([column]).with_format("arrow")[:][column], rows.features[column]
    while isinstance(kind, (List, datasets.LargeList)):
        values, kind = pc.list_flatten(values), kind.feature
    return values, kind


def iter_roles(value: object) -> Iterator[str]:
    """Yield the roles of messages, or of turns of {from, value}."""
    for message in value if isinstance(value, list) else []:
        role = isinstance(message, dict) and (message.get("role") or message.get("from"))
        if isinstance(role, str):
            yield role


def conversation_feature(kind, is_parsed: bool):
    """Return the type of a column of messages with `role` and `content`."""
    if is_parsed:
        messages = List(Json())
        return List(messages) if isinstance(kind, List) else messages
    if isinstance(kind, Json):
        return kind
    if isinstance(kind.feature, (List, datasets.LargeList)):
        return List(conversation_feature(kind.feature, is_parsed))
    fields = item_fields(kind)
    if "from" not in fields:
        return kind
    names = SHAREGPT_FIELDS
    return List({names.get(name, name): field for name, field in fields.items() if names.get(name) not in fields})


def joined_feature(kinds: list):
    """Return a type of messages that can hold messages of all these types."""
    common = reduce(lambda one, other: one and common_feature(one, other), kinds)
    return common or List(Json())


def normalize_row(row: dict, parsed: list[str], columns: list[str]) -> dict:
    """Return the normalized conversations of a row, see `normalize_conversations`.

    Args:
        parsed: the columns with JSON texts.
        columns: the columns that hold messages afterwards.
    """
    found = {}
    for column in columns:
        value = row[column]
        if column in parsed:
            value = [parse_reply(one) for one in value or []] if column == "replies" else parse_reply(value)
        value = [as_messages_list(one) for one in value or []] if column == "replies" else as_messages_list(value)
        found[column] = usual_messages(value, "assistant" if column in REPLY_COLUMNS else "user")
    for column in {"prompt"} & {*columns}:
        found[column] = message_list(found[column] or [], "user")
    if row.get(SYSTEM):
        with_system(found, {"role": "system", "content": row[SYSTEM]}, [*columns])
    if found.get("prompt"):
        ask_once(found)
    return found


def as_messages_list(value: object) -> object:
    """Return one message as a list, JSON text in a mixed column as its messages, and anything else unchanged."""
    value = [value] if isinstance(value, dict) else value
    if isinstance(value, list) and len(value) == 1 and role_of_first(value) == TEXT_ROLE:
        return parse_messages(value[0]["content"]) or value
    return value


def usual_messages(value: object, text_role: str) -> object:
    """Return messages, in lists of any depth, as {role, content} instead of {from, value}, with the usual roles.

    Args:
        text_role: the role of text in the column.
    """
    if isinstance(value, list):
        return [usual_messages(item, text_role) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("from") and not value.get("role"):
        rest = {name: field for name, field in value.items() if name not in ("from", "value", "role", "content")}
        value = {"role": value["from"], "content": value.get("value"), **rest}
    role = value.get("role")
    role = text_role if role == TEXT_ROLE else usual_role(role)
    return value | {"role": role}


def with_system(found: dict, message: dict, columns: list[str]) -> None:
    """Put a system message before the conversation of a row, unless it already begins with it."""
    firsts = [column for column in ("messages", "prompt") if column in columns] or ["chosen", "rejected"]
    for column in firsts:
        messages = found.get(column)
        if messages and key_of(messages[0]) != key_of(message):
            found[column] = [message, *messages]


def ask_once(found: dict) -> None:
    """Move the messages before a row's responses into its prompt, if they are equal in all responses."""
    replies = [*found.get("replies", []), *(found[name] for name in REPLY_COLUMNS[:-1] if name in found)]
    whole = [reply for reply in replies if reply and role_of_first(reply) in ("system", "user")]
    ends = [prompt_end(found["prompt"], reply) for reply in whole]
    if not whole or None in ends:
        return
    before = [reply[:end] for reply, end in zip(whole, ends, strict=True)]
    if any([*map(key_of, one)] != [*map(key_of, before[0])] for one in before):
        return
    if role_of_first(found["prompt"]) != "system" or role_of_first(before[0]) == "system":
        found["prompt"] = before[0]
    else:
        found["prompt"] = [found["prompt"][0], *before[0]]
    for name in {*REPLY_COLUMNS} & found.keys():
        cut = partial(without_prompt, length=len(before[0]))
        found[name] = [cut(reply) for reply in found[name] or []] if name == "replies" else cut(found[name])


def without_prompt(reply: list, length: int) -> list:
    """Return a response without its first `length` messages if it begins with a question."""
    return reply[length:] if reply and role_of_first(reply) in ("system", "user") else reply


def role_of_first(messages: object) -> str | None:
    """Return the role of the first message."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return first.get("role") if isinstance(first, dict) else None


def prompt_end(prompt: list, reply: list) -> int | None:
    """Return the index after the prompt in a conversation; None if its messages before the last one lack the prompt.

    A system message that only one of the two has is ignored; two different ones do not match.
    """
    wanted, messages = [*map(key_of, prompt)], [*map(key_of, reply)]
    if wanted[0][0] == messages[0][0] == "system" and wanted[0] != messages[0]:
        return None
    wanted = wanted[1:] if wanted[0][0] == "system" else wanted
    for start in range(messages[0][0] == "system", len(messages) - len(wanted)):
        if messages[start : start + len(wanted)] == wanted:
            return start + len(wanted)
    return None


def key_of(message: object) -> tuple:
    """Return the role and content of a message as a comparable value."""
    try:
        message = without_nulls(normalize_message(message))
    except (RenderError, AttributeError):
        return None, message
    content = message.get("content")
    rest = {name: value for name, value in message.items() if name not in ("role", "content")}
    return message.get("role"), content.strip() if isinstance(content, str) else content, rest
