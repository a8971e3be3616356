"""Reads the YAML files of tasks without executing anything, and finds what in them would execute code."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import yaml

from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.core.files import read_text
from hfkit.core.limits import MAX_YAML_BYTES
from hfkit.core.yaml import StrictLoader

FUNCTION_TAG = "!function"
"""The tag of lm-evaluation-harness that imports a Python function."""
TRUST_REMEDY = "it executes code: read it, then add --allow_code if you trust it"


class TaskLoader(StrictLoader):
    """A YAML loader that reads `!function module.name` as text and counts it."""

    def __init__(self, stream):
        super().__init__(stream)
        self.functions: list[str] = []

    def construct_function(self, node: yaml.ScalarNode) -> str:
        """Return the tag with its function as text."""
        text = f"{FUNCTION_TAG} {self.construct_scalar(node)}"
        self.functions.append(f"{text} on line {node.start_mark.line + 1}")
        return text


TaskLoader.add_constructor(FUNCTION_TAG, TaskLoader.construct_function)


@dataclass
class TaskFile:
    """A YAML file of a task or a group, with the files that it includes.

    Args:
        content: its keys, with those of included files; functions are text.
        code: what in it would execute code.
    """

    path: Path
    content: dict
    code: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the task or group; "" for a file that others include."""
        task = self.content.get("task")
        return str(self.content.get("group") or (task if isinstance(task, str) else ""))

    @property
    def tags(self) -> set[str]:
        """The tags of the task."""
        given = self.content.get("tag") or []
        return {given} if isinstance(given, str) else {*map(str, given)}

    @property
    def members(self) -> set[str]:
        """The names of the tasks and groups that a group names."""
        members = self.content.get("task") if "group" in self.content else None
        return {
            str(one.get("task", one.get("group")) if isinstance(one, dict) else one)
            for one in (members if isinstance(members, list) else [])
        }


def harness_folder() -> Path:
    """Return the folder of the tasks that lm-evaluation-harness includes; their code is that of the package."""
    return Path(find_spec("lm_eval").origin).parent.resolve() / "tasks"


def read_task_file(path: Path, seen: tuple[Path, ...] = ()) -> TaskFile:
    """Return the content of a YAML file and of those that it includes.

    Raises:
        HfkitError: one of them cannot be read, holds no mapping, or includes itself.
    """
    path = path.expanduser().resolve()
    if path in seen:
        raise HfkitError(f"{path} includes itself")
    try:
        loader = TaskLoader(read_text(path, MAX_YAML_BYTES))
        content = loader.get_single_data()
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise HfkitError(f"the task file {path} cannot be read: {reason(error)}") from error
    if not isinstance(content, dict):
        raise HfkitError(f"the task file {path} holds no mapping: lines of `key: value`")
    given = content.pop("include", None) or []
    included = [
        read_task_file(path.parent / str(one), (*seen, path)) for one in (given if isinstance(given, list) else [given])
    ]
    is_own = path.is_relative_to(harness_folder())
    code = [] if is_own else [f"{path.name}: {one}" for one in [*loader.functions, *settings_with_code(content)]]
    merged: dict = {}
    for one in included:
        merged |= one.content
    return TaskFile(path, merged | content, [*(text for one in included for text in one.code), *code])


def settings_with_code(content: dict) -> list[str]:
    """Return the settings of a task, or of the members of a group, that execute code without a `!function`."""
    found = []
    for settings in nested_mappings(content):
        if settings.get("unsafe_code"):
            found.append("unsafe_code: true")
        if settings.get("hf_evaluate"):
            found.append(f"the metric {settings.get('metric')} (hf_evaluate: true)")
        if settings.get("dataset_path") == "pandas":
            found.append("dataset_path: pandas, which reads pickles")
    return found


def nested_mappings(value: object) -> Iterator[dict]:
    """Yield each mapping in a value, at any depth."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nested_mappings(one)


def metrics_in(content: dict) -> set[str]:
    """Return the names of the metrics that a task, or the members of a group, name."""
    return {str(one["metric"]) for one in nested_mappings(content.get("metric_list")) if "metric" in one} | {
        name for one in nested_mappings(content.get("task")) for name in metrics_in(one)
    }


def code_problems(files: list[TaskFile]) -> list[Problem]:
    """Return a problem for each part of task files that would execute code."""
    return [Problem("tasks", text, TRUST_REMEDY, keys=("allow_code",)) for file in files for text in file.code]


def files_in(folder: str | None) -> list[TaskFile]:
    """Return the YAML files in a folder and its subfolders.

    Raises:
        HfkitError: one of them cannot be read.
    """
    paths = sorted(Path(folder).glob("**/*.yaml")) if folder else []
    ignored = {"__pycache__", ".ipynb_checkpoints"}  # as the harness does
    return [read_task_file(path) for path in paths if not ignored & {*path.parts}]


def needs_harness_tasks(names: list[str], files: list[TaskFile]) -> bool:
    """Return whether a name is not that of a file's task, group or tag; reading the harness's own takes 10 s."""
    by_name = {file.name: file for file in files}
    tags = set().union(*(file.tags for file in files))
    waiting, seen = [*names], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name in tags:
            continue
        if name not in by_name:
            return True
        seen.add(name)
        waiting += by_name[name].members
    return False


def resolved_data_files(file: TaskFile) -> dict | None:
    """Return `dataset_kwargs` of a task whose data files are next to its YAML; None if they need no change."""
    kwargs = file.content.get("dataset_kwargs")
    if not isinstance(kwargs, dict) or "data_files" not in kwargs:
        return None

    def resolve(value):
        if isinstance(value, dict):
            return {key: resolve(one) for key, one in value.items()}
        if isinstance(value, list):
            return [resolve(one) for one in value]
        next_to_it = file.path.parent / str(value)
        return str(next_to_it) if isinstance(value, str) and not Path(value).exists() and next_to_it.exists() else value

    files = resolve(kwargs["data_files"])
    return None if files == kwargs["data_files"] else {**kwargs, "data_files": files}
