"""Reads a command of another tool that is saved as text, such as `trl sft --model_name_or_path X --dataset_name Y`."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from hfkit.config.other_tools import table
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.yaml import parse_yaml


@dataclass(frozen=True)
class ForeignCommand:
    """A command of another tool.

    Attributes:
        tool: its name in `other_tools.yaml`.
        verb: the first word after the program; "" if a flag follows it.
        given: the flags.
    """

    tool: str
    verb: str
    given: dict[str, object]


def find_command(text: str) -> ForeignCommand | None:
    """Return the first command of another tool in a text; None if there is none.

    Raises:
        ConfigError: a flag has the value of a shell variable.
    """
    programs = {program: name for name, tool in table()["tools"].items() for program in tool["programs"]}
    for line in text.replace("\\\n", " ").splitlines():
        words = split_line(line)
        named = [index for index, word in enumerate(words) if Path(word).name in programs]
        if named and words[named[0] + 1 :]:
            verb, *others = words[named[0] + 1 :]
            flags = others if not verb.startswith("--") else [verb, *others]
            return ForeignCommand(programs[Path(words[named[0]]).name], verb.lstrip("-"), flag_values(flags))
    return None


def split_line(line: str) -> list[str]:
    """Return the words of a line of a shell script; [] if a quote is open."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def flag_values(words: list[str]) -> dict[str, object]:
    """Return the values of flags, read as YAML: true without a value, a list for several.

    Raises:
        ConfigError: a value is a shell variable, or a file is named before the flags.
    """
    texts: dict[str, list[str]] = {}
    problems, key = [], ""
    for word in words:
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            key = name.replace("-", "_")
            texts[key] = [value] if sign else []
        elif key:
            texts[key].append(word)
        else:
            problems.append(Problem("--from", word, "the command names this file: translate it instead"))
    remedy = "variables of the shell are not read: write the value"
    problems += [Problem(f"--{name}", word, remedy) for name, given in texts.items() for word in given if "$" in word]
    if problems:
        raise ConfigError(problems)
    values = {name: [read_value(word) for word in given] for name, given in texts.items()}
    return {name: True if not given else given[0] if len(given) == 1 else given for name, given in values.items()}


def read_value(word: str) -> object:
    """Return a word as YAML, or as text if it is none."""
    try:
        return parse_yaml(word)
    except ValueError:
        return word
