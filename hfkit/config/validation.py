"""Values against type hints, by hand: what does not fit is a `Problem` that says what to write instead."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hfkit.core.errors import MISSING, Kind, Problem, nearest

# A config class with a classmethod `extra_field(name) -> hint | None` takes more keys than it has fields:
# they land in its dict field of this name, which is therefore not a key itself.
EXTRA = "extra"
TYPE_NAMES = {bool: "true/false", int: "integer", float: "number", str: "text", NoneType: "none", Any: "anything"}


def members(hint: object) -> tuple:
    """The alternatives of a union; any other hint is its own only alternative."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def choices_of(hint: object) -> list | None:
    """The values a Literal or an Enum allows."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [item.value for item in hint] if isinstance(hint, type(Enum)) else None


def spell(hint: object) -> str:
    """A hint in the words of remedies and of `--help`: `integer or none`, `list of text`, `train|test`."""
    if len(members(hint)) > 1:
        return " or ".join(spell(member) for member in members(hint))
    if (choices := choices_of(hint)) is not None:
        return "|".join(map(str, choices))
    kind = get_origin(hint) or hint
    if is_dataclass(kind):
        return f"{{{', '.join(known_fields(kind))}}}"
    if kind is dict:
        return "mapping"
    if kind is list:
        return f"list of {spell(*get_args(hint))}" if get_args(hint) else "list"
    return TYPE_NAMES.get(kind) or getattr(kind, "__name__", str(kind))


def one_of(choices: list) -> str:
    """The remedy for a value that is not among the allowed ones."""
    return f"expected one of: {', '.join(map(str, choices))}"


def convert(hint: object, value: object, key: str, problems: list[Problem]) -> object:
    """Return `value` as `hint` has it (an int as the float asked for), or add to `problems` why not."""
    kind, args, choices = get_origin(hint) or hint, get_args(hint), choices_of(hint)
    remedy = f"expected {spell(hint)}"
    if len(members(hint)) > 1:
        return _convert_union(hint, value, key, problems)
    plain = isinstance(kind, type) and not args and kind not in (int, float)  # a bool is an int to Python
    if hint is Any or (plain and isinstance(value, kind)):
        return value
    if choices is not None:
        if any(type(value) is type(choice) and value == choice for choice in choices):
            return value
        remedy = one_of(choices)
    elif kind is list and isinstance(value, (list, tuple)):
        return [convert(args[0], item, f"{key}[{i}]", problems) for i, item in enumerate(value)]
    elif kind is dict and isinstance(value, Mapping):
        within = ((name, item, f"{key}.{name}") for name, item in value.items())
        return {
            convert(args[0], name, path, problems): convert(args[1], item, path, problems)
            for name, item, path in within
        }
    elif is_dataclass(kind) and isinstance(value, Mapping):
        values, found = {}, []
        check_fields(kind, value, values, found, f"{key}.")
        check_required(kind, values, found, f"{key}.")
        problems += found
        return value if found else kind(**values)
    elif kind is int and type(value) is int:
        return value
    elif kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    elif kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:  # text as well: a quoted 1e-4 is still a number
            if math.isfinite(number := float(value)):
                return number
            remedy = "expected finite number"
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
    alternatives = [member for member in members(hint) if member is not NoneType]
    if value is None and len(alternatives) < len(members(hint)):
        return None
    if any(isinstance(member, type(Enum)) for member in alternatives):
        # Transformers annotates `Enum | str` and means the Enum's values.
        alternatives = [member for member in alternatives if member is not str]
    failures = []
    for member in alternatives:
        found: list[Problem] = []
        converted = convert(member, value, key, found)
        if not found:
            return converted
        failures.append(found)
    # The alternative whose outer shape fits says best what is wrong inside.
    inner = [found for found in failures if all(problem.key != key for problem in found)]
    if inner or len(failures) == 1:
        problems += (inner or failures)[0]
    else:
        problems.append(Problem(key, value, f"expected {spell(hint)}"))
    return value


@cache
def known_fields(config_class: type) -> dict[str, object]:
    """The keys of a config class and their resolved type hints."""
    hints = get_type_hints(config_class)
    hidden = EXTRA if hasattr(config_class, "extra_field") else None
    return {f.name: hints[f.name] for f in fields(config_class) if f.init and f.name != hidden}


def find_hint(config_class: type, name: str) -> tuple[object, str]:
    """The type hint of a key, or None and the remedy for a key that is not taken."""
    known = known_fields(config_class)
    if name in known:
        return known[name], ""
    if name == EXTRA and hasattr(config_class, "extra_field"):
        return None, "write what is in it as keys of their own"
    remedy = config_class.refused_field(name) if hasattr(config_class, "refused_field") else None
    hint = config_class.extra_field(name) if remedy is None and hasattr(config_class, "extra_field") else None
    return hint, remedy or ""


def check_fields(config_class: type, given: Mapping, values: dict, problems: list[Problem], prefix: str):
    """Sort the keys of `given` into `values`, as the class wants them, and `problems`."""
    known = known_fields(config_class)
    for name, value in ((str(key), value) for key, value in given.items()):
        key, found = prefix + name, []
        hint, remedy = find_hint(config_class, name)
        if hint is None:
            guess = nearest(name, known)
            flag = prefix if prefix == "--" else ""
            advice = f"did you mean {flag}{guess}?" if guess else "remove it (--help lists the keys)"
            meant = (prefix + guess,) if guess and not remedy else ()
            found.append(Problem(key, value, remedy or f"unknown; {advice}", Kind.UNKNOWN, meant))
        else:
            value = convert(hint, value, key, found)
        problems += found
        if not found:
            (values if name in known else values.setdefault(EXTRA, {}))[name] = value


def root(key: str) -> str:
    """The top-level name in a key: `datasets` in `--datasets[1].path`."""
    return re.split(r"[.\[]", key.removeprefix("--"))[0].replace("-", "_")


def check_required(config_class: type, values: Mapping, problems: list[Problem], prefix: str) -> bool:
    """Return whether `values` can build the class; each required key that lacks one is told, once."""
    told = {root(problem.key.removeprefix(prefix)) for problem in problems}
    given = values.keys() | {f.name for f in fields(config_class) if not f.init}
    required = [f.name for f in fields(config_class) if f.default is f.default_factory is NO_DEFAULT]
    missing = [name for name in required if name not in given]
    for name in missing:
        if name not in told:
            remedy = "required; add it" if prefix else f"required; set it in the YAML or pass --{name}"
            problems.append(Problem(prefix + name, MISSING, remedy))
    return not missing
