"""Reads a config from a YAML file and flags, strictly, and reports all problems at once.

Flags override the YAML, the YAML overrides defaults, and no key is ignored: see `parse` and `load_config`.
"""

import json
import os
import re
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_origin

from hfkit.config.input_paths import resolve_inputs
from hfkit.config.validation import (
    check_fields,
    check_required,
    convert,
    default_of,
    describe_type,
    find_hint,
    known_fields,
    top_level_key,
    union_members,
)
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.core.home import expand_home
from hfkit.core.yaml import parse_yaml, read_yaml

EPILOG = """Write a value as --flag value or --flag=value, a list as --flag a b, a mapping or a list of mappings
as JSON or YAML, a boolean as --flag, --flag false or --no_flag, and no value as none. Flags override the YAML file."""

FLAG = re.compile(r"--([^\s=]+)(?:=(.*))?", re.DOTALL)
TRUTH = {"true": True, "yes": True, "y": True, "t": True, "1": True}
TRUTH |= {"false": False, "no": False, "n": False, "f": False, "0": False}

Check = Callable[[Any], list[Problem]]
"""Returns the contradictions between the fields of a config, and between fields and the files that they name."""


@dataclass(frozen=True)
class Layer:
    """Keys of a config from one source.

    Attributes:
        content: the keys; None for a file that could not be read.
        prefix: prefix of the keys in messages.
        file: the file that messages name.
        problems: the problems found while it was read.
    """

    content: Mapping | None
    prefix: str = ""
    file: str = ""
    problems: tuple[Problem, ...] = ()


def read_layer(path: str) -> Layer:
    """Return the keys in a YAML file, one of several that make up a config."""
    problems: list[Problem] = []
    content = read_inputs(path, problems)
    return Layer(content, file=path, problems=tuple(replace(problem, file=path) for problem in problems))


def parse(
    config_class: type,
    argv: list[str],
    prog: str,
    description: str,
    check: Check | None = None,
    layers: Sequence[Layer] = (),
):
    """Return the config that `--config FILE` and the flags in `argv` describe; `-h` prints help and exits.

    Args:
        layers: keys of other files; `--config` and the flags override them.

    Raises:
        ConfigError: with all problems, including those that `check` finds.
    """
    if "-h" in argv or "--help" in argv:
        help_parser(config_class, prog, description).parse_args(["--help"])
    problems: list[Problem] = []
    flags = read_flags(config_class, argv, problems)
    path = expand_home(flags.pop("config", None))
    given = [] if path is None else [Layer(read_inputs(path, problems))]
    problems += [problem for layer in layers for problem in layer.problems]
    return build(config_class, [*layers, *given, Layer(flags, "--")], problems, path, check)


def load_config(
    config_class: type, source: Mapping | str | os.PathLike, check: Check | None = None, **overrides: object
):
    """Return the config that a mapping or a YAML file describes, validated as in `parse`."""
    problems: list[Problem] = []
    path = None if isinstance(source, Mapping) else expand_home(os.fspath(source))
    given = Layer(source) if isinstance(source, Mapping) else Layer(read_inputs(str(path), problems))
    return build(config_class, [given, Layer(overrides)], problems, path, check)


def read_inputs(path: str, problems: list[Problem]) -> dict | None:
    """Return the content of a YAML, with the paths of its input files relative to the current folder."""
    return resolve_inputs(read_yaml(path, problems), os.path.dirname(path), problems)


def build(config_class: type, layers: list[Layer], problems: list[Problem], source: str | None, check: Check | None):
    """Return the config of all layers; a later layer overrides an earlier one.

    Args:
        problems: the problems found while the layers were read.

    Raises:
        ConfigError: with all problems.
    """
    values: dict[str, Any] = {}
    files: dict[str, str] = {}
    for layer in layers:
        found: list[Problem] = []
        check_fields(config_class, layer.content or {}, values, found, layer.prefix)
        problems += [replace(problem, file=layer.file) for problem in found]
        files |= dict.fromkeys(map(str, layer.content or {}), layer.file)
    unread = any(layer.content is None for layer in layers)  # it may have contained any key
    complete = check_required(config_class, values, [] if unread else problems, "")
    if complete and not unread:
        config = config_class(**values)
        # a faulty key has its default in `config`: a contradiction with a default is not the user's mistake
        faulty = {name for problem in problems for name in field_names(problem)}
        contradictions = [one for one in (check(config) if check else []) if not field_names(one) & faulty]
        problems += [replace(one, file=files.get(top_level_key(one.key), "")) for one in contradictions]
        if not problems:
            return config
    raise ConfigError(problems, source)


def field_names(problem: Problem) -> set[str]:
    """Return the names of the config fields that a problem is about."""
    return {top_level_key(key) for key in (problem.key, *problem.keys)}


def help_parser(config_class: type, prog: str, description: str) -> ArgumentParser:
    """Return a parser that only prints help: argparse stops at the first error, so `read_flags` reads values."""
    parser = ArgumentParser(prog, SUPPRESS, description, EPILOG, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file with any of the keys below", metavar="FILE")
    hints = known_fields(config_class)
    for field in fields(config_class):
        if field.name not in hints:
            continue
        default = default_of(field)
        note = "required" if default is NO_DEFAULT else f"default: {'none' if default is None else default}"
        text = f"{field.metadata.get('help', '')} ({note})".strip().replace("%", "%%")
        parser.add_argument(f"--{field.name}", help=text, metavar=describe_type(hints[field.name]))
    return parser


def group_flags(argv: list[str], problems: list[Problem]) -> list[tuple[str, list[str]]]:
    """Return the flags of a command line in order, each as (key, words after it).

    Dashes within a key count as underscores. `--no_key` is not interpreted: only the config class knows its meaning.
    """
    groups: list[tuple[str, list[str]]] = []
    takes_more = False
    for word in argv:
        if match := FLAG.fullmatch(word):
            groups.append((match[1].replace("-", "_"), [] if match[2] is None else [match[2]]))
            takes_more = match[2] is None
        elif takes_more and not re.match(r"-[a-zA-Z-]", word):
            groups[-1][1].append(word)
        else:
            problems.append(Problem("argument", word, "does not follow a flag; write --FLAG VALUE"))
    return groups


def command_line(flags: list[tuple[str, list[str]]]) -> list[str]:
    """Return the words of a command line with these flags, the inverse of `group_flags`."""
    return [
        word for key, words in flags for word in ([f"--{key}={words[0]}"] if len(words) == 1 else [f"--{key}", *words])
    ]


def read_flags(config_class: type, argv: list[str], problems: list[Problem]) -> dict[str, Any]:
    """Return the values of the flags by key; those of unknown flags as text."""
    known, flags = known_fields(config_class), {}
    collected: dict[str, list[list[str]]] = {}
    for key, words in group_flags(argv, problems):
        positive = key.removeprefix("no_")
        if key not in known and key != positive and bool in union_members(known.get(positive)):
            if words:
                value, remedy = " ".join(words), f"takes no value; write --{positive} true or false"
                problems.append(Problem(f"--{key}", value, remedy, keys=(positive,)))
            key, words = positive, ["false"]
        collected.setdefault(key, []).append(words)
    for name, given in collected.items():
        words, key = given[-1], f"--{name}"
        hint = None if name == "config" else find_hint(config_class, name)[0]
        if len(given) > 1:
            problems.append(Problem(key, [" ".join(words) for words in given], "given twice; keep one"))
        if hint is not None and not words and bool not in union_members(hint):
            problems.append(Problem(key, MISSING, f"expected {describe_type(hint)} after it"))
        else:
            flags[name] = " ".join(words) if hint is None else read_words(hint, words)
    return flags


def read_word(word: str) -> object:
    """Return the value of a word of JSON, or of mappings in YAML's short form: `[{path: FILE}]`.

    Raises:
        ValueError: it is neither; `[PAD]` is a text.
    """
    with suppress(ValueError):
        return json.loads(word)
    value = parse_yaml(word) if word.startswith(("[", "{")) else None
    if not isinstance(value, dict) and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        raise ValueError
    return value


def read_words(hint: object, words: list[str]) -> object:
    """Return the value of a flag's words for a type hint; if nothing fits, a value that `convert` reports."""
    lists = [member for member in union_members(hint) if list in (member, get_origin(member))]
    item = (get_args(lists[0]) or (Any,))[0] if lists else None
    readings: list[object] = [] if words else [True]
    if len(words) == 1:
        word = words[0]
        if word.lower() in ("none", "null"):
            readings.append(None)
        with suppress(ValueError):  # except strings: the shell has removed their quotes
            value = read_word(word)
            if lists and isinstance(value, (dict, list)):
                return value  # its problems are those of the JSON, and not of a path with its text
            readings += [] if isinstance(value, str) else [value]
        readings.append(word)
        if word.lower() in TRUTH:
            readings.append(TRUTH[word.lower()])
    if words and lists:
        readings.append([read_words(item, [word]) for word in words])
    elif len(words) > 1:
        readings.append(words)
    for reading in readings:
        found: list[Problem] = []
        convert(hint, reading, "", found)
        if not found:
            return reading
    return next((reading for reading in readings if isinstance(reading, (dict, list))), readings[0])
