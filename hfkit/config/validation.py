"""Validates values against type hints; each mismatch becomes a `Problem` that says what to write instead."""

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hfkit.config.other_tools import translate
from hfkit.core.errors import MISSING, Kind, Problem, nearest
from hfkit.core.home import expand_home
from hfkit.core.names import NOT_UTF8, is_utf8

EXTRA = "extra"
"""The dict field for the keys that `extra_field(name)` of a config class has a type hint for; not a key itself."""
FROM_TEXT = "from_text"
"""The method of a dataclass that creates it from text; where a list is expected, one item alone is accepted."""
REMOVE = "unknown; remove it (--help lists the keys)"
TYPE_NAMES = {bool: "true/false", int: "integer", float: "number", str: "text", NoneType: "none", Any: "anything"}


def union_members(hint: object) -> tuple:
    """Return the members of a union; for any other hint, the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def choices_of(hint: object) -> list | None:
    """Return the values that a Literal or an Enum allows; None for any other hint."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [item.value for item in hint] if isinstance(hint, type(Enum)) else None


def describe_type(hint: object) -> str:
    """Return a type hint as shown in remedies and `--help`: `integer or none`, `list of text`, `train|test`."""
    if len(union_members(hint)) > 1:
        return " or ".join(describe_type(member) for member in union_members(hint))
    if (choices := choices_of(hint)) is not None:
        return "|".join(map(str, choices))
    kind: Any = get_origin(hint) or hint
    if isinstance(kind, type) and is_dataclass(kind):
        return f"{'path or ' * hasattr(kind, FROM_TEXT)}{{{', '.join(known_fields(kind))}}}"
    if kind is dict:
        return "mapping"
    if kind is list:
        return f"list of {describe_type(*get_args(hint))}" if get_args(hint) else "list"
    return TYPE_NAMES.get(kind) or str(getattr(kind, "__name__", kind))


def convert(hint: object, value: object, key: str, problems: list[Problem]) -> object:
    """Convert `value` to the type of `hint` (such as an int to a float), or add to `problems` why it does not fit."""
    kind: Any = get_origin(hint) or hint
    args, choices = get_args(hint), choices_of(hint)
    remedy = f"expected {describe_type(hint)}"
    if len(union_members(hint)) > 1:
        return _convert_union(hint, value, key, problems)
    if isinstance(value, (str, os.PathLike)) and not is_utf8(str(value)):
        problems.append(Problem(key, str(value), NOT_UTF8))
        return value
    plain = isinstance(kind, type) and not args and kind not in (int, float)  # in Python a bool is an int
    if hint is Any or (plain and isinstance(value, kind)):
        return expand_home(value)
    if choices is not None:
        if any(type(value) is type(choice) and value == choice for choice in choices):
            return value
        remedy = f"expected one of: {', '.join(map(str, choices))}"
    elif kind is list and isinstance(value, (list, tuple)):
        return [convert(args[0], item, f"{key}[{i}]", problems) for i, item in enumerate(value)]
    elif kind is list and args and hasattr(args[0], FROM_TEXT) and isinstance(value, (str, os.PathLike, Mapping)):
        return [convert(args[0], value, f"{key}[0]", problems)]
    elif hasattr(kind, FROM_TEXT) and isinstance(value, (str, os.PathLike)):
        return kind.from_text(expand_home(os.fspath(value)))
    elif kind is dict and isinstance(value, Mapping):
        within = ((name, item, f"{key}.{name}") for name, item in value.items())
        return {
            convert(args[0], name, path, problems): convert(args[1], item, path, problems)
            for name, item, path in within
        }
    elif isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
        values: dict[str, Any] = {}
        found: list[Problem] = []
        check_fields(kind, value, values, found, f"{key}.")
        check_required(kind, values, found, f"{key}.")
        problems += found
        return value if found else kind(**values)
    elif kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    elif kind is str and isinstance(value, os.PathLike):
        return expand_home(os.fspath(value))
    elif kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:  # text too: a quoted 1e-4 is a number
            if math.isfinite(number := float(value)):
                return number
            remedy = "expected a finite number"
        except (ValueError, OverflowError):
            pass
    elif kind is list:
        remedy += ", such as [a, b]"
    if isinstance(value, bool) and (kind is str or isinstance(choices and choices[0], str)):
        remedy += "; quote it (YAML reads a bare yes, no, on or off as true or false)"
    elif kind is str and value is not None and not isinstance(value, (list, tuple, Mapping)):
        remedy += "; quote it"
    problems.append(Problem(key, value, remedy))
    return value


def _convert_union(hint: object, value: object, key: str, problems: list[Problem]) -> object:
    alternatives = [member for member in union_members(hint) if member is not NoneType]
    if value is None and len(alternatives) < len(union_members(hint)):
        return None
    if any(isinstance(member, type(Enum)) for member in alternatives):
        # Transformers annotates `Enum | str` but accepts only the Enum's values.
        alternatives = [member for member in alternatives if member is not str]
    failures = []
    for member in alternatives:
        found: list[Problem] = []
        converted = convert(member, value, key, found)
        if not found:
            return converted
        failures.append(found)
    # the alternative whose outer type fits gives the most precise problems
    inner = [found for found in failures if all(problem.key != key for problem in found)]
    if inner or len(failures) == 1:
        problems += (inner or failures)[0]
    else:
        problems.append(Problem(key, value, f"expected {describe_type(hint)}"))
    return value


def default_of(field: Field) -> object:
    """Return the default of a dataclass field; `dataclasses.MISSING` if it has none."""
    return field.default if field.default_factory is NO_DEFAULT else field.default_factory()


@cache
def known_fields(config_class: type) -> dict[str, object]:
    """Return the keys of a config class with their resolved type hints."""
    hints = get_type_hints(config_class)
    hidden = EXTRA if hasattr(config_class, "extra_field") else None
    return {f.name: hints[f.name] for f in fields(config_class) if f.init and f.name != hidden}


@cache
def metadata_of(config_class: type, name: str) -> Mapping:
    """Return the metadata of a key, see `config.fields.arg`; {} for a key that only the trainer's config has."""
    return next((dict(field.metadata) for field in fields(config_class) if field.name == name), {})


def find_hint(config_class: type, name: str) -> tuple[object, str]:
    """Return the type hint of a key and ""; for a key that is not accepted, None and the remedy, which may be ""."""
    known = known_fields(config_class)
    if name in known:
        return known[name], ""
    if name == EXTRA and hasattr(config_class, "extra_field"):
        return None, "write its content as keys of the config"
    remedy = config_class.refused_field(name) if hasattr(config_class, "refused_field") else None
    hint = config_class.extra_field(name) if remedy is None and hasattr(config_class, "extra_field") else None
    return hint, remedy or ""


def check_fields(config_class: type, given: Mapping, values: dict, problems: list[Problem], prefix: str):
    """Convert the keys of `given` into `values` by the class's type hints; add all others to `problems`.

    A key without a value (`fp16:`) is left at its default, unless none is a value of it or has a remedy.
    """
    known = known_fields(config_class)
    for name, value in ((str(key), value) for key, value in given.items()):
        key, found = prefix + name, []
        hint, remedy = find_hint(config_class, name)
        if hint is None:
            flag = prefix if prefix == "--" else ""
            remedy, meant = (remedy, ()) if remedy else unknown_remedy(name, known, flag)
            found.append(Problem(key, value, remedy, Kind.UNKNOWN, tuple(f"{prefix}{one}" for one in meant)))
        else:
            metadata = metadata_of(config_class, name)
            advice = metadata.get("remedy", "")
            if isinstance(value, (str, bool, NoneType)):
                value = metadata.get("means", {}).get(value, value)
            if value is None and not advice and not {NoneType, Any} & {*union_members(hint)}:
                (values if name in known else values.get(EXTRA, {})).pop(name, None)
                continue
            value = convert(hint, value, key, found)
            found = [replace(one, remedy=f"{one.remedy}; {advice}") if advice else one for one in found]
        problems += found
        if not found:
            (values if name in known else values.setdefault(EXTRA, {}))[name] = value


def unknown_remedy(name: str, known: Collection[str], flag: str) -> tuple[str, tuple[str, ...]]:
    """Return the remedy for an unknown key, and the keys that were probably meant."""
    advice, meant = translate(name, known, flag)
    if advice:
        return f"unknown; {advice}", meant
    guess = nearest(name, known)
    return (f"unknown; did you mean {flag}{guess}?", (guess,)) if guess else (REMOVE, ())


def top_level_key(key: str) -> str:
    """Return the name of the field that contains a key: `datasets` for `--datasets[1].path`."""
    return re.split(r"[.\[]", key.removeprefix("--"))[0].replace("-", "_")


def check_required(config_class: type, values: Mapping, problems: list[Problem], prefix: str) -> bool:
    """Return whether `values` can build the class; add a problem for each required key without a value.

    A key that already has a problem gets no second one.
    """
    reported = {top_level_key(problem.key.removeprefix(prefix)) for problem in problems}
    given = values.keys() | {f.name for f in fields(config_class) if not f.init}
    required = [f.name for f in fields(config_class) if f.default is f.default_factory is NO_DEFAULT]
    missing = [name for name in required if name not in given]
    for name in missing:
        if name not in reported:
            remedy = "required; add it" if prefix else f"required; set it in the YAML or pass --{name}"
            problems.append(Problem(prefix + name, MISSING, remedy))
    return not missing
