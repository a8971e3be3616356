"""A stage's configuration from its YAML file and its flags, strictly: whatever is wrong is told, all at once.

Flags beat YAML, YAML beats defaults, and nothing is ignored: see `parse` and `load_config`.
"""

import json
import os
import re
import sys
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING as NO_DEFAULT
from typing import Any, get_args, get_origin

from trl.scripts.utils import TrlParser

from hfkit.errors import MISSING, ConfigError, Problem
from hfkit.hints import check_fields, check_required, convert, find_hint, known_fields, members, root, spell
from hfkit.strict_yaml import read_yaml

EPILOG = """A value is written --key value or --key=value, a list --key a b, a mapping or a list of mappings
as JSON, true and false as --key, --key false or --no_key, and no value as none. Flags beat the YAML file."""

GUESS = r"did you mean (?:--)?(\w+)"  # in the remedy of an unknown key
TRUTH = {"true": True, "yes": True, "y": True, "t": True, "1": True}
TRUTH |= {"false": False, "no": False, "n": False, "f": False, "0": False}


def parse(config_class: type, argv: list[str], prog: str, description: str):
    """Return the config that `--config FILE` and the flags in `argv` describe, or raise `ConfigError`."""
    return StrictParser(config_class, prog=prog, description=description).parse_args_and_config(argv)[0]


def load_config(config_class: type, source: Mapping | str | os.PathLike, **overrides):
    """Return the config that a mapping or a YAML file describes, checked as `parse` checks it."""
    problems: list[Problem] = []
    path = None if isinstance(source, Mapping) else os.fspath(source)
    given = source if path is None else read_yaml(path, problems)
    return build(config_class, [(given, ""), (overrides, "")], problems, path)


def build(config_class: type, layers: list[tuple], problems: list[Problem], source: str | None):
    """Return the config of all layers, the last one winning, or raise all problems, with those already found.

    A layer is a mapping (None if it could not be read) and what is put before its keys when they are told.
    """
    values: dict[str, Any] = {}
    for given, prefix in layers:
        check_fields(config_class, given or {}, values, problems, prefix)
    unread = any(given is None for given, _ in layers)  # then any key may have been in there
    complete = check_required(config_class, values, [] if unread else problems, "")
    if complete and not unread:
        config = config_class(**values)
        # A key in trouble has its default here: what that contradicts is not the user's doing.
        troubled = {root(problem.key) for problem in problems}
        troubled |= {name for problem in problems for name in re.findall(GUESS, problem.remedy)}
        contradictions = config.problems() if hasattr(config, "problems") else []
        problems += [problem for problem in contradictions if not words_of(problem) & troubled]
        if not problems:
            return config
    raise ConfigError(problems, source)


def words_of(problem: Problem) -> set[str]:
    """The words of a problem, among them the names of all keys that it is about."""
    return set(re.findall(r"\w+", f"{problem.key} {problem.remedy}"))


class _Help(RawDescriptionHelpFormatter):
    def _format_action_invocation(self, action):
        return f"{action.option_strings[0]} {action.metavar or ''}".strip()  # one spelling of each is enough


class StrictParser(TrlParser):
    """TrlParser made strict: no abbreviated, repeated, unknown or valueless flag, no value of the wrong type.

    argparse only collects the words after each flag, known or not: by itself it stops at the first error.
    """

    def __init__(self, config_class: type, **kwargs):
        self.config_class = config_class
        # Without a usage line, --help opens with the description.
        layout = {"formatter_class": _Help, "usage": SUPPRESS, "epilog": EPILOG}
        super().__init__([config_class], allow_abbrev=False, conflict_handler="resolve", **(layout | kwargs))
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own takes -1e-4 for a flag

    def _add_dataclass_arguments(self, dtype):
        self.collect("--config", help="YAML file with any of the keys below", metavar="FILE")
        super()._add_dataclass_arguments(dtype)

    @staticmethod
    def _parse_dataclass_field(parser, field):
        if field.name not in known_fields(parser.config_class):
            return
        default = field.default if field.default_factory is NO_DEFAULT else field.default_factory()
        note = "required" if default is NO_DEFAULT else f"default: {'none' if default is None else default}"
        text = f"{field.metadata.get('help', '')} ({note})".strip().replace("%", "%%")
        choices = field.metadata.get("choices")
        expected = "|".join(map(str, choices)) if choices else spell(field.type)
        parser.collect(f"--{field.name}", help=text, metavar=expected)
        if bool in members(field.type):
            flags = dict.fromkeys([f"--no_{field.name}", f"--no-{field.name.replace('_', '-')}"])
            written = {"action": "append_const", "const": ["false"], "default": SUPPRESS}
            parser.add_argument(*flags, dest=field.name, help=SUPPRESS, **written)

    def collect(self, flag: str, **kwargs) -> None:
        """Add a flag, in both spellings, whose words are collected as they are, each time it is given."""
        dest = flag[2:].replace("-", "_")
        spellings = dict.fromkeys([f"--{dest}", f"--{dest.replace('_', '-')}", flag])
        self.add_argument(*spellings, dest=dest, action="append", nargs="*", default=SUPPRESS, **kwargs)

    def parse_args_and_config(self, args: list[str] | None = None) -> tuple:
        """Return the config as TrlParser does, in a tuple, or raise a `ConfigError` with everything wrong."""
        problems: list[Problem] = []
        flags = self.read_flags(sys.argv[1:] if args is None else list(args), problems)
        path = flags.pop("config", None)
        given = {} if path is None else read_yaml(path, problems)
        return (build(self.config_class, [(given, ""), (flags, "--")], problems, path),)

    def read_flags(self, args: list[str], problems: list[Problem]) -> dict[str, Any]:
        """Return the values of the flags by key, those of unknown flags as they are."""
        for match in filter(None, (re.match(r"--([^\s=]+)(=|$)", word) for word in args)):
            if f"--{match[1]}" not in self._option_string_actions:
                self.collect(f"--{match[1]}")  # unknown so far: the checks say what it should have been
        collected, stray = self.parse_known_args(args)
        problems += [Problem("argument", word, "belongs to no flag; write --key value") for word in stray]
        flags = {}
        for name, given in vars(collected).items():
            words, key = given[-1], f"--{name}"
            hint = None if name == "config" else find_hint(self.config_class, name)[0]
            if len(given) > 1:
                problems.append(Problem(key, [" ".join(words) for words in given], "given twice; keep one"))
            if hint is not None and not words and bool not in members(hint):
                problems.append(Problem(key, MISSING, f"expected {spell(hint)} after it"))
            else:
                flags[name] = " ".join(words) if hint is None else read_words(hint, words)
        return flags

    def error(self, message: str):
        """Raise what argparse would print and exit for."""
        raise ConfigError([Problem("command line", self.prog, message)])


def read_words(hint: object, words: list[str]) -> object:
    """Return what the words of a flag mean for `hint`; where no reading fits, one to be told wrong."""
    lists = [member for member in members(hint) if list in (member, get_origin(member))]
    item = (get_args(lists[0]) or (Any,))[0] if lists else None
    readings: list[object] = [] if words else [True]
    if len(words) == 1:
        word = words[0]
        if word.lower() in ("none", "null"):
            readings.append(None)
        with suppress(ValueError):  # JSON, but for strings: the shell has had their quotes already
            readings += [value for value in [json.loads(word)] if not isinstance(value, str)]
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
