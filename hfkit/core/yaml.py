"""Reads YAML safely and strictly: duplicate keys and unreadable files are reported as problems."""

import re

import yaml

from hfkit.core.errors import Problem


class StrictLoader(yaml.SafeLoader):
    """A safe YAML loader that reports duplicate keys.

    It reads `1e-4` as a number (YAML 1.1 wants `1.0e-4`), and a date as text: JSON, which the record is, has no dates.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.problems: list[Problem] = []

    def construct_document(self, node):
        self.report_duplicates(node, "")
        return super().construct_document(node)

    def construct_date(self, node: yaml.ScalarNode) -> str:
        """Return a date as its text."""
        return self.construct_scalar(node)

    def report_duplicates(self, node: yaml.Node, path: str) -> None:
        """Add a problem for each key in `node`, at any depth, that its mapping has twice."""
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
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", StrictLoader.construct_date)


def read_yaml(path: str, problems: list[Problem]) -> dict | None:
    """Return the mapping in a YAML file; add a problem and return None if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            loader = StrictLoader(file)
            given = loader.get_single_data()
        problems += loader.problems
        if isinstance(given, dict):
            return given
        remedy = "expected lines of `key: value` in the file"
    except OSError as error:
        remedy = f"cannot be read: {error.strerror or error}"
    except yaml.MarkedYAMLError as error:
        path = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        remedy = f"not valid YAML: {error.problem}"
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        remedy = f"not valid YAML: {error}"
    problems.append(Problem("config", path, remedy))
    return None
