"""Describes the shape of the values in JSON files, and the types that hold them unchanged.

A shape is a JSON value, so that it can be cached: `kinds` (the number of values of each kind), `fields` (the shape
of each field of the objects) and `item` (the shape of the items of the lists).
"""

import json

from datasets import Features, Json, LargeList, List, Value

from hfkit.core.limits import MAX_KEY_LENGTH, exceeded, limit_of, too_deep
from hfkit.data.conversions import TEXT_ROLE

NUMBERS = {"int", "float"}
# A turn of a conversation has one of these fields.
ROLE_FIELDS = ("role", "from")


def new_shape() -> dict:
    """Return an empty shape."""
    return {"kinds": {}, "fields": {}, "item": None}


def add_value(shape: dict, value: object, depth: int) -> int:
    """Add one value to a shape.

    Args:
        depth: how many lists and objects may be nested.

    Returns:
        the number of new fields.

    Raises:
        LimitError: more than `depth` lists and objects are nested, or a key is too long.
    """
    kind, added = kind_of(value), 0
    shape["kinds"][kind] = shape["kinds"].get(kind, 0) + 1
    if kind in ("object", "list") and depth <= 0:
        raise too_deep()
    if kind == "object":
        fields = shape["fields"]
        for name, field in value.items():
            if name not in fields:
                check_key(name)
                fields[name], added = new_shape(), added + 1
            if name == "arguments" and "name" in value and isinstance(field, (dict, list)):
                fields[name]["kinds"]["arguments"] = fields[name]["kinds"].get("arguments", 0) + 1
            else:
                added += add_value(fields[name], field, depth - 1)
    elif kind == "list":
        shape["item"] = shape["item"] or new_shape()
        for item in value:
            added += add_value(shape["item"], item, depth - 1)
    return added


def check_key(name: str) -> None:
    """Raise LimitError if a key is too long."""
    if len(name) > limit_of(MAX_KEY_LENGTH):
        raise exceeded(MAX_KEY_LENGTH, f"its key {name[:20]!r}... has", "characters")


def kind_of(value: object) -> str:
    """Return the kind of a value. Text that may look like a date is a separate kind: Arrow's readers change it."""
    if isinstance(value, str):
        return "date" if value[4:5] == "-" and value[:4].isdigit() else "text"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return "list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float"
    return "int" if -(2**63) <= value < 2**63 else "long"


def kinds_of(shape: dict) -> set[str]:
    """Return the kinds of a shape's values, except nulls."""
    return {*shape["kinds"]} - {"null"}


def is_plain(shape: dict) -> bool:
    """Return whether a reader that infers types from a part of the file reads all values unchanged."""
    kinds = kinds_of(shape)
    if not (kinds <= {"text"} or kinds <= NUMBERS or len(kinds) == 1) or kinds & {"date", "long", "arguments"}:
        return False
    if "object" in kinds and not is_even(shape):
        return False
    if shape["item"] and "null" in shape["item"]["kinds"] and kinds_of(shape["item"]):
        return False  # Arrow's reader drops or moves nulls at the start of lists; `datasets` notices it since 5.2
    return all(map(is_plain, shape["fields"].values())) and (shape["item"] is None or is_plain(shape["item"]))


def is_even(shape: dict) -> bool:
    """Return whether all objects of a shape have the same fields, at least one."""
    counts = {sum(field["kinds"].values()) for field in shape["fields"].values()}
    return counts == {shape["kinds"]["object"]}


def row_features(shape: dict) -> Features:
    """Return the types of the columns of rows with this shape."""
    return Features({name: feature_of(field) for name, field in shape["fields"].items()})


def feature_of(shape: dict):
    """Return a type that holds each value unchanged.

    Values of several types become text if they are scalars, messages if they are texts and messages, otherwise JSON.
    """
    kinds = kinds_of(shape)
    if not kinds:
        return Value("null")
    if not kinds & {"list", "object"}:
        if kinds <= NUMBERS:
            return Value("float64" if "float" in kinds else "int64")
        return Value("bool" if kinds == {"bool"} else "string")
    if kinds == {"list"}:
        return List(feature_of(shape["item"]))
    if kinds == {"object"}:
        fields = {name: feature_of(field) for name, field in shape["fields"].items()}
        return fields if is_even(shape) and not any(map(contains_json, fields.values())) else Json()
    return List(Json()) if is_text_or_messages(shape) else Json()


def contains_json(kind) -> bool:
    """Return whether a type contains values of any type, except as the items of a list."""
    if isinstance(kind, dict):
        return any(map(contains_json, kind.values()))
    if isinstance(kind, (List, LargeList)):
        return not isinstance(kind.feature, Json) and contains_json(kind.feature)
    return isinstance(kind, Json)


def is_text_or_messages(shape: dict) -> bool:
    """Return whether values are text in some rows, and messages or one message in others."""
    kinds = kinds_of(shape)
    if len(kinds) < 2 or not kinds <= {"text", "date", "list", "object"}:
        return False
    items = [shape["item"]] if "list" in kinds else []
    turns = items + ([shape] if "object" in kinds else [])
    return all(kinds_of(one) <= {"object"} for one in items) and any({*ROLE_FIELDS} & {*one["fields"]} for one in turns)


def as_written(shape: dict, value: object, text: object, kind, *, in_json: bool = False) -> object:
    """Return a value of a row converted to its type.

    Args:
        text: the same value with numbers as text, as in the file.
        kind: from `feature_of(shape)`.
        in_json: whether it is part of a value that becomes JSON as a whole.
    """
    is_nan = isinstance(value, float) and value != value
    if value is None or (is_nan and kinds_of(shape) - NUMBERS):  # pandas writes a missing text as NaN
        return None
    if isinstance(kind, Json) and not in_json:
        return dump(as_written(shape, value, text, kind, in_json=True))
    kinds = kinds_of(shape)
    if isinstance(kind, List) and is_text_or_messages(shape) and not in_json:
        messages = [{"role": TEXT_ROLE, "content": value}] if isinstance(value, str) else value
        messages = messages if isinstance(messages, list) else [messages]
        return [dump(one) for one in messages]
    if isinstance(value, list) and shape["item"]:
        item = kind.feature if isinstance(kind, List) else kind
        return [
            as_written(shape["item"], one, written, item, in_json=in_json)
            for one, written in zip(value, text, strict=True)
        ]
    if isinstance(value, dict) and shape["fields"]:
        names = value if in_json else shape["fields"]
        types = kind if isinstance(kind, dict) else dict.fromkeys(names, kind)
        return {
            name: as_written(shape["fields"][name], value.get(name), text.get(name), types[name], in_json=in_json)
            for name in names
        }
    if isinstance(value, (dict, list)):
        return dump(value) if "arguments" in kinds else value
    if isinstance(value, str) or kinds <= NUMBERS or kinds == {"bool"}:
        return value
    is_text = not kinds & {"list", "object"} or kind_of(value) == "long"
    return value if not is_text else json.dumps(value) if isinstance(value, bool) else text


def dump(value: object) -> str:
    """Return the JSON of a value."""
    return json.dumps(value, ensure_ascii=False)
