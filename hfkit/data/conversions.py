"""Converts the columns of a dataset to those of a stage, by `columns` and `convert` of a card or an entry.

The set of conversions is fixed: a card cannot run code.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import datasets
import pyarrow as pa
from datasets import Dataset, Features, Json, LargeList, List, Value

from hfkit.data.function_calls import TURN_COLUMNS, function_calls, with_tool_calls
from hfkit.data.messages import usual_role

PLACEHOLDER = re.compile(r"{([^{}]+)}")  # "{instruction}\n\n{input}"
DIFFERENCE = re.compile(r"(\w+) - (\w+)")  # "score_chosen - score_rejected"
ITEMS = re.compile(r"(\w+)\[\]\.(\w+)")  # "answers[].rank"
# "\n\nHuman: " in HH-RLHF and Nectar, "<extra_id_1>User\n" in HelpSteer2.
TRANSCRIPT_MARK = re.compile(r"(?:^|\n\n)(Human|Assistant):(?: |$|(?=\n))|<extra_id_1>(User|Assistant)\n")
SHAREGPT_FIELDS = {"from": "role", "value": "content"}  # the fields of a turn -> those of a message
NUMERIC_TYPES = ("int", "uint", "float", "decimal", "null")  # prefixes of the names of numeric types
MESSAGES = List({"role": Value("string"), "content": Value("string")})
# The role of text that becomes one message, because other rows of its column hold messages.
TEXT_ROLE = "=text"


def expression_columns(expression: str) -> list[str]:
    """Return the dataset's columns that one value of `columns` reads."""
    if match := DIFFERENCE.fullmatch(expression):
        return [match[1], match[2]]
    if match := ITEMS.fullmatch(expression):
        return [match[1]]
    return PLACEHOLDER.findall(expression) or [expression]


def is_difference(expression: str) -> bool:
    """Return whether an expression is a difference of two columns."""
    return DIFFERENCE.fullmatch(expression) is not None


def evaluate_expression(expression: str, row: dict) -> object:
    """Return the value of an expression: a column, text with columns in braces, a difference, or a field of list items.

    A text is stripped, so that an empty column leaves no white space; null counts as empty.
    """
    if match := DIFFERENCE.fullmatch(expression):
        values = [row[name] for name in match.groups()]
        return None if None in values else float(values[0] - values[1])
    if match := ITEMS.fullmatch(expression):
        return [item and item[match[2]] for item in row[match[1]] or []]
    if PLACEHOLDER.search(expression):
        return PLACEHOLDER.sub(lambda name: "" if row[name[1]] is None else str(row[name[1]]), expression).strip()
    return row[expression]


def expression_feature(expression: str, features: Features):
    """Return the type of the result of `evaluate_expression`.

    Raises:
        ValueError: the columns do not have the types that the expression needs.
    """
    if match := DIFFERENCE.fullmatch(expression):
        for name in match.groups():
            if not getattr(features[name], "dtype", "").startswith(NUMERIC_TYPES):
                raise ValueError(f"a difference needs numbers, but {name!r} holds {features[name]}")
        return Value("float64")
    if match := ITEMS.fullmatch(expression):
        fields = item_fields(features[match[1]])
        if match[2] not in fields:
            raise ValueError(f"{match[1]!r} is not a list of items with {match[2]!r}: {features[match[1]]}")
        return List(fields[match[2]])
    if not PLACEHOLDER.search(expression):
        return features[expression]
    for name in expression_columns(expression):
        if not isinstance(features[name], Value):
            raise ValueError(f"braces need text, but {name!r} holds {features[name]}")
    return Value("string")


def item_fields(kind) -> dict:
    """Return the fields of a list's items with their types; {} if they have none."""
    fields = kind.feature if isinstance(kind, (List, LargeList)) else None
    return fields if isinstance(fields, dict) else {}


def parse_transcript(text: str, *, is_prompt: bool = True) -> list[dict]:
    """Return a transcript as messages: "\\n\\nHuman: ...\\n\\nAssistant: ..." or "...<extra_id_1>Assistant\\n..."

    Text before the first marker is a user message.

    Args:
        is_prompt: whether an empty assistant message at the end is left out, as it only asks for the response; if not,
            it is the response.
    """
    parts = TRANSCRIPT_MARK.split(text)
    messages = [{"role": "user", "content": parts[0].strip()}] if parts[0].strip() else []
    for human, extra, content in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        messages.append({"role": usual_role(human or extra), "content": content.strip()})
    while is_prompt and messages and not messages[-1]["content"] and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages


def transcript(row: dict) -> dict:
    """Return `prompt`, `chosen` and `rejected` as messages if they are transcripts."""
    texts = {name: row[name] for name in ("prompt", "chosen", "rejected") if isinstance(row.get(name), str)}
    return {name: parse_transcript(text, is_prompt=name == "prompt") for name, text in texts.items()}


def shared_prompt(row: dict) -> dict:
    """Return the common start of `chosen` and `rejected` as `prompt`, messages or text, and the two without it."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        shared = common_length(chosen[:-1], rejected[:-1])  # each keeps at least one message as its response
    elif isinstance(chosen, str) and isinstance(rejected, str):
        shared = len(shared_prompt_text(chosen, rejected))
    else:
        return {"prompt": None, "chosen": chosen, "rejected": rejected}
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def common_length(one: Sequence, other: Sequence) -> int:
    """Return the length of the common prefix: messages of two conversations, or characters of two texts."""
    differ = (index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(one), len(other)))


def shared_prompt_text(chosen: str, rejected: str) -> str:
    """Return the common prefix of two texts without a trailing space, as TRL's `extract_prompt` does.

    In transcripts it ends with the last common marker of the assistant, because responses may also begin alike.
    """
    common = chosen[: common_length(chosen, rejected)]
    marks = [mark for mark in TRANSCRIPT_MARK.finditer(common) if "Assistant" in mark.groups()]
    return (common[: marks[-1].end()] if marks else common).removesuffix(" ")


def sharegpt(row: dict) -> dict:
    """Return `messages` from turns of {from, value}; unknown roles are kept, and the template may reject them."""
    turns = [{SHAREGPT_FIELDS.get(name, name): value for name, value in turn.items()} for turn in row["messages"] or []]
    return {"messages": [turn | {"role": usual_role(turn.get("role"))} for turn in turns]}


def history(row: dict) -> dict:
    """Return a row with its earlier exchanges, a list of [user, assistant], before its prompt.

    With a response, all of it becomes one conversation in `messages`, and earlier responses are trained on like the
    last one; otherwise the conversation is the prompt. If an exchange is not two texts, the row is dropped later.
    """
    exchanges = row["history"] or []
    is_valid = all(isinstance(one, list) and [*map(type, one)] == [str, str] for one in exchanges) and row["prompt"]
    texts = [text for one in exchanges for text in one] + [row["prompt"]] if is_valid else []
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    if "response" not in row:
        return {"prompt": messages or [None]}
    return {"messages": [*messages, {"role": "assistant", "content": row["response"]}] if messages else [None]}


def group_by_prompt(rows: Dataset) -> Dataset:
    """Return one row per prompt (and `system` and `tools`); other columns become lists of their values, in order."""
    keys, groups = [name for name in ("prompt", "system", "tools") if name in rows.column_names], defaultdict(list)
    for index, row in enumerate(rows.select_columns(keys)):
        groups[json.dumps([*row.values()])].append(index)
    firsts, order = [group[0] for group in groups.values()], [index for group in groups.values() for index in group]
    offsets = pa.array([0, *accumulate(map(len, groups.values()))], "int32")
    others = rows.select(order).remove_columns(keys).with_format("arrow")[:]
    own = rows.select(firsts).select_columns(keys).with_format("arrow")[:]
    columns = {name: own[name] for name in keys}
    columns |= {name: pa.ListArray.from_arrays(offsets, others[name].combine_chunks()) for name in others.column_names}
    features = {name: kind if name in keys else List(kind) for name, kind in rows.features.items()}
    table = pa.table({name: columns[name] for name in features})
    return Dataset(table, info=datasets.DatasetInfo(features=Features(features)))


def drop_ties(rows: Dataset) -> Dataset:
    """Return the rankings with at least two different scores or ranks, such as a good and a bad completion."""
    values = rows["scores" if "scores" in rows.column_names else "ranks"]
    return rows.select([index for index, one in enumerate(values) if len({*one} - {None}) > 1])


def conversion_problem(name: str, features: Features) -> str | None:
    """Return why a conversion cannot be applied to columns of these types, or None."""
    reads = {"shared_prompt": ["chosen", "rejected"], "sharegpt": ["messages"], "history": ["prompt", "history"]}
    reads |= {"group_by_prompt": ["prompt"]}
    if missing := [column for column in reads.get(name, ()) if column not in features]:
        return f"reads the column {missing[0]!r}, but the columns are {[*features]}"
    if name == "sharegpt":
        kind = features["messages"]
        is_mixed = isinstance(kind, List) and isinstance(kind.feature, Json)
        if not is_mixed and not {"from", "value"} <= item_fields(kind).keys():
            return f"reads turns with from and value, but 'messages' holds {kind}: remove sharegpt if they are messages"
    if name == "history" and not is_list_of_texts(features["history"]):
        return (
            f"reads lists of [user, assistant], but 'history' holds {features['history']}: map only the other columns"
        )
    if name == "drop_ties" and not {"scores", "ranks"} & {*features}:
        return f"reads scores or ranks, but the columns are {[*features]}"
    return None


def is_list_of_texts(kind) -> bool:
    """Return whether a type is a list of lists of texts; if all lists are empty, the type is null."""
    if isinstance(kind, (List, LargeList)):
        kind = kind.feature.feature if isinstance(kind.feature, (List, LargeList)) else kind.feature
        return kind in (Value("string"), Value("large_string"), Value("null"))
    return kind == Value("null")


def converted_features(name: str, features: Features) -> Features:
    """Return the types of all columns after a conversion of rows."""
    if name == "history":
        made = "messages" if "response" in features else "prompt"
        consumed = ("prompt", "history", "response") if "response" in features else ("history",)
        return Features({one: kind for one, kind in features.items() if one not in consumed} | {made: MESSAGES})
    return Features({**features, **changed_features(name, features)})


def changed_features(name: str, features: Features) -> dict:
    """Return the types of the columns that a conversion of rows creates or changes."""
    if name == "shared_prompt":
        return {"prompt": features["chosen"], "chosen": features["chosen"], "rejected": features["rejected"]}
    if name == "sharegpt":
        turns = {SHAREGPT_FIELDS.get(name, name): kind for name, kind in item_fields(features["messages"]).items()}
        # no fields: turns of which only some have a field
        return {"messages": List(turns) if turns else features["messages"]}
    if name == "function_calls":
        return {column: with_tool_calls(features[column]) for column in TURN_COLUMNS if column in features}
    return {column: MESSAGES for column in ("prompt", "chosen", "rejected") if features.get(column) == Value("string")}


ROW_CONVERSIONS = {"transcript": transcript, "shared_prompt": shared_prompt, "sharegpt": sharegpt}
ROW_CONVERSIONS |= {"function_calls": function_calls, "history": history}
TABLE_CONVERSIONS = {"group_by_prompt": group_by_prompt, "drop_ties": drop_ties}


def prompt_of(row: dict) -> str | list[dict] | None:
    """Return the prompt of a row of any form, from the column that is trained on; None if there is none.

    The prompt of a conversation is what precedes its last assistant message.
    """
    if messages := row.get("messages"):
        replies = [i for i, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "assistant"]
        return messages[: replies[-1]] if replies else messages
    if row.get("prompt"):
        return row["prompt"]
    is_implicit = "prompt" not in row and {"chosen", "rejected"} <= row.keys()
    return shared_prompt(row)["prompt"] if is_implicit else None
