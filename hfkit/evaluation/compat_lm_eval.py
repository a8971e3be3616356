"""Private parts of lm-evaluation-harness that `harness.py` uses, as of lm_eval 0.4.13.

No other module uses them. `tests/evaluation/test_compat_lm_eval.py` fails when upstream moves one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lm_eval.utils
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml


@contextmanager
def sandboxed_templates() -> Iterator[None]:
    """Render the Jinja templates of tasks in a sandbox; the harness renders them in the global `lm_eval.utils.env`."""
    before = lm_eval.utils.env
    sandbox = ImmutableSandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters |= before.filters
    lm_eval.utils.env = sandbox
    try:
        yield
    finally:
        lm_eval.utils.env = before


def add_task(manager: TaskManager, name: str, path: Path, content: dict) -> None:
    """Add the task or group in a YAML file to a manager, which otherwise reads only whole folders.

    Args:
        content: of the file.
    """
    manager.task_index[name] = replace(TaskIndex.entry_from_path(path), cfg=content)


def set_dataset_kwargs(manager: TaskManager, name: str, path: Path, kwargs: dict) -> None:
    """Replace `dataset_kwargs` of a task; its functions are imported, so validate the file before."""
    content = load_yaml(path, resolve_func=True) | {"dataset_kwargs": kwargs}
    manager.task_index[name] = replace(manager.task_index[name], yaml_path=None, cfg=content)
