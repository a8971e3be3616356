"""Reads YAML safely and strictly: duplicate keys and unreadable files are reported as problems."""

import re
from pathlib import Path

import yaml
from yaml.scanner import ScannerError

from hfkit.core.errors import Problem, reason
from hfkit.core.files import read_text
from hfkit.core.limits import (
    MAX_DEPTH,
    MAX_YAML_BYTES,
    MAX_YAML_VALUES,
    UnsafeFileError,
    exceeded,
    limit_of,
    too_deep,
)
from hfkit.core.missing_paths import no_such

FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
"""A card's metadata: what `huggingface_hub` accepts, and a bit more."""


class StrictLoader(yaml.SafeLoader):
    """A safe YAML loader that reports duplicate keys.

    A few lines of aliases can expand to billions of values: it counts them and refuses too many.

    It reads `1e-4` as a number (YAML 1.1 requires `1.0e-4`), and a date as text, since the JSON record has no dates.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.problems: list[Problem] = []
        self.depth, self.max_depth = 0, limit_of(MAX_DEPTH)

    def compose_node(self, parent, index):
        """Compose a node.

        Raises:
            LimitError: it is nested too deeply.
        """
        self.depth += 1
        if self.depth > self.max_depth:
            raise too_deep()
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self):
        """Compose the document.

        Raises:
            LimitError: it holds too many values after its aliases are expanded.
            ValueError: it holds itself.
        """
        node = super().get_single_node()
        if node is not None and count_values(node, {}) > limit_of(MAX_YAML_VALUES):
            raise exceeded(MAX_YAML_VALUES, "with its aliases expanded it holds", "values")
        return node

    def construct_document(self, node):
        self.report_duplicates(node, "")
        return super().construct_document(node)

    def report_duplicates(self, node: yaml.Node, path: str) -> None:
        """Add a problem for each duplicate key in `node`, at any depth."""
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.report_duplicates(item, f"{path}[{i}]")
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = f"{path}.{key.value}".lstrip("."), key.start_mark.line + 1
                if name in lines:
                    remedy = f"given twice, on lines {lines[name]} and {line}; keep one"
                    self.problems.append(Problem(name, self.construct_object(value, deep=True), remedy))
                lines.setdefault(name, line)
                self.report_duplicates(value, name)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: node.value)


def count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """Return how many values a node holds after its aliases are expanded.

    Args:
        counted: counts of the nodes already visited, by id.

    Raises:
        ValueError: a node holds itself.
    """
    if id(node) in counted:
        if not counted[id(node)]:
            raise ValueError(f"the anchor on line {node.start_mark.line + 1} contains itself")
        return counted[id(node)]
    counted[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        total = sum(count_values(one, counted) for pair in node.value for one in pair)
    else:
        total = sum(count_values(one, counted) for one in node.value) if isinstance(node, yaml.SequenceNode) else 0
    counted[id(node)] = 1 + total
    return 1 + total


def parse_yaml(text: str) -> object:
    """Return the value of untrusted YAML.

    Raises:
        ValueError: it is not YAML, or (`LimitError`) exceeds a limit.
    """
    if len(text) > limit_of(MAX_YAML_BYTES):
        raise exceeded(MAX_YAML_BYTES, "its YAML has", "bytes")
    try:
        return StrictLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"not valid YAML: {reason(error)}{advice(error)}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {reason(error)}") from error


def front_matter(text: str) -> dict:
    """Return the YAML mapping at the start of a card; {} without one.

    Raises:
        ValueError: it is not YAML, or (`LimitError`) exceeds a limit.
    """
    found = FRONT_MATTER.match(text)
    content = parse_yaml(f"\n{found[1]}") if found else None  # keeps the card's line numbers
    return content if isinstance(content, dict) else {}


def advice(error: yaml.MarkedYAMLError) -> str:
    """Return what to do about a mistake that is common in YAML, as the end of a message; "" for others."""
    mark = error.problem_mark
    if not isinstance(error, ScannerError) or mark is None or mark.buffer is None:
        return ""
    if mark.buffer[mark.pointer] == "\t":
        return ": use spaces, not tabs"
    if "\\" in mark.buffer[max(0, mark.pointer - 2) : mark.pointer]:
        return ": put a value with backslashes, such as a Windows path, in single quotes"
    return ""


def read_yaml(path: str, problems: list[Problem]) -> dict | None:
    """Return the mapping in a YAML file; add a problem and return None if there is none."""
    try:
        loader = StrictLoader(read_text(Path(path), MAX_YAML_BYTES))
        given = loader.get_single_data()
        problems += loader.problems
        if isinstance(given, dict):
            return given
        remedy = "expected a mapping in the file: lines of `key: value`"
    except FileNotFoundError:
        remedy = no_such("file", path)
    except OSError as error:
        remedy = f"cannot be read: {error.strerror or error}"
    except yaml.MarkedYAMLError as error:
        path = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        remedy = f"not valid YAML: {error.problem}{advice(error)}"
    except UnsafeFileError as error:
        remedy = str(error)
    except (ValueError, yaml.YAMLError) as error:
        remedy = f"not valid YAML: {error}"
    problems.append(Problem("config", path, remedy))
    return None
