"""Runs tasks of lm-evaluation-harness on models that hfkit loads; imports `lm_eval`, so import it only when needed."""

import logging
import os
import random
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import lm_eval
import lm_eval.api.metrics  # registers the metrics
import numpy as np
import torch
from jinja2.sandbox import SecurityError
from lm_eval.api.registry import metric_registry
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from hfkit.config.evaluation import BenchConfig
from hfkit.core.console import is_debugging, say
from hfkit.core.errors import ConfigError, HfkitError, Problem, nearest, reason
from hfkit.core.files import hash_of
from hfkit.core.hub_retry import is_offline
from hfkit.data.caching import content_hash
from hfkit.data.messages import RenderError
from hfkit.data.rendering import Template
from hfkit.evaluation.bench_files import (
    TRUST_REMEDY,
    TaskFile,
    code_problems,
    files_in,
    metrics_in,
    needs_harness_tasks,
    read_task_file,
    resolved_data_files,
)
from hfkit.evaluation.compat_lm_eval import add_task, sandboxed_templates, set_dataset_kwargs
from hfkit.evaluation.replies import Subject

VERSION = version("lm_eval")
RESAMPLES = 1000
"""Bootstrap resamples of lm-evaluation-harness for the standard error of metrics that are no means."""
LOADERS_OFFLINE = ("OfflineModeIsEnabled", "Couldn't reach", "offline mode")
"""Parts of the messages of `datasets` when it cannot reach the Hub."""


class HarnessModel(HFLM):
    """A model that hfkit has loaded, as lm-evaluation-harness uses models.

    Conversations are rendered as in training: with the tokenizer's chat template, its variables and its system prompt.
    """

    def __init__(self, subject: Subject, config: BenchConfig):
        # a rendered conversation has the template's BOS token, if any
        options = {"add_bos_token": False} if config.apply_chat_template else {}
        super().__init__(
            pretrained=subject.model,
            tokenizer=subject.tokenizer,
            batch_size=config.per_device_eval_batch_size,
            max_length=subject.context,
            **options,
        )

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        """Return the log-likelihood of each continuation, and whether it is the greedy one."""
        return super().loglikelihood(requests, disable_tqdm or not sys.stderr.isatty())

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list:
        """Return the log-likelihood of each text."""
        return super().loglikelihood_rolling(requests, disable_tqdm or not sys.stderr.isatty())

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Return a response to each prompt."""
        return super().generate_until(requests, disable_tqdm or not sys.stderr.isatty())

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """Return a conversation as text; without a generation prompt, its last message is the start of a response."""
        template, messages, start = Template(self.tokenizer), [*chat_history], ""
        if not add_generation_prompt and messages[-1]["role"] == "assistant":
            start = messages.pop()["content"]
        return template.render(messages, generation_prompt=True).text + start


@dataclass
class LoadedTask:
    """A task, group or tag that is ready to run.

    Args:
        name: as the user gave it, or the name in its file.
        leaves: its tasks by name.
        groups: the groups that it consists of, by name.
        identity: hash of their settings and rows.
    """

    name: str
    leaves: dict
    groups: dict
    identity: str


def template_context(allow_code: bool) -> AbstractContextManager[None]:
    """Return the context in which templates of tasks are rendered: a sandbox, unless code is allowed."""
    return nullcontext() if allow_code else sandboxed_templates()


def quiet_harness() -> None:
    """Silence the log of the harness, unless HFKIT_DEBUG=1 asks for it."""
    os.environ["DISABLE_MULTIPROC"] = "1"  # it would fork this process, with its model, for each bootstrap
    if not is_debugging():
        logging.getLogger("lm_eval").setLevel(logging.CRITICAL)


def load_tasks(config: BenchConfig) -> list[LoadedTask]:
    """Return the tasks of a config with their rows.

    No code of task files runs, unless `allow_code` is set.

    Raises:
        ConfigError: a task does not exist, or would execute code.
        HfkitError: the rows of a task cannot be read, or need the Hub while it cannot be reached.
    """
    quiet_harness()
    files = files_in(config.include_path)
    given = {task: read_named_file(task) for task in config.tasks if task.endswith((".yaml", ".yml"))}
    names = [given[task].name if task in given else task for task in config.tasks]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError([Problem("tasks", name, "named twice: name it once") for name in repeated], "the tasks")
    own = [*files, *given.values()]
    if not config.allow_code and (problems := code_problems(own) + unknown_metric_problems(own)):
        raise ConfigError(dict.fromkeys(problems), "the task files")
    if needs_harness_tasks(names, own):
        say("bench: reading the names of the harness's tasks")
        manager = TaskManager(include_path=config.include_path)
    else:
        manager = TaskManager(include_path=config.include_path, include_defaults=False)
    for file in own:
        add_task_file(manager, file, is_named=file in given.values())
    require_known(manager, names, config.allow_code)
    with template_context(config.allow_code):
        return [load_task(manager, name, config) for name in names]


def read_named_file(path: str) -> TaskFile:
    """Return the file of a task or group that the user names.

    Raises:
        HfkitError: it cannot be read, or has neither `task` nor `group`.
    """
    file = read_task_file(Path(path))
    if not file.name:
        raise HfkitError(f"{path} is not a task: it has neither `task: NAME` nor `group: NAME`")
    return file


def unknown_metric_problems(files: list[TaskFile]) -> list[Problem]:
    """Return a problem for each metric that the harness does not have: it would load a script of that name."""
    return [
        Problem(
            "tasks", f"{file.path.name}: the metric {name}", f"not a metric of lm-evaluation-harness: {TRUST_REMEDY}"
        )
        for file in files
        for name in sorted(metrics_in(file.content) - {*metric_registry.keys()})
    ]


def add_task_file(manager: TaskManager, file: TaskFile, is_named: bool) -> None:
    """Add a task file that the user named to the manager's index; find data files next to the YAML of a task."""
    if is_named:
        add_task(manager, file.name, file.path, file.content)
    kwargs = resolved_data_files(file)
    if kwargs is not None and file.name in manager.task_index:
        set_dataset_kwargs(manager, file.name, file.path, kwargs)


def require_known(manager: TaskManager, names: list[str], allow_code: bool) -> None:
    """Raise ConfigError for names without a task, and for tasks of the harness that execute code."""
    index, problems = manager.task_index, []
    waiting, seen = [*names], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if name not in index:
            if name in names:
                guess = nearest(name, index)
                remedy = f"did you mean {guess!r}?" if guess else "`lm_eval ls tasks` lists the names of the harness"
                problems.append(Problem("tasks", name, f"there is no such task; {remedy}"))
            continue
        entry = index[name]
        if (entry.cfg or {}).get("unsafe_code") and not allow_code:
            problems.append(Problem("tasks", name, f"unsafe_code: {TRUST_REMEDY}", keys=("allow_code",)))
        waiting += sorted(entry.tags) if entry.kind.name == "TAG" else []
        waiting += sorted(TaskFile(Path(), entry.cfg or {}).members)
    if problems:
        raise ConfigError(problems, "the tasks")


def load_task(manager: TaskManager, name: str, config: BenchConfig) -> LoadedTask:
    """Return a task, group or tag with its rows.

    Raises:
        HfkitError: the rows cannot be read, or need the Hub while it cannot be reached.
    """
    try:
        found = manager.load([name])
    except Exception as error:  # libraries raise many types for a broken task
        if is_out_of_reach(error):
            raise HfkitError(
                f"the rows of the task {name} are not on this machine, and the Hub cannot be reached: {reason(error)}. "
                "Run it once with a connection, or name tasks with local files"
            ) from error
        raise HfkitError(f"the task {name} cannot be read: {reason(error)}") from error
    leaves = found["tasks"]
    for leaf in leaves.values():
        set_num_fewshot(leaf, config.num_fewshot)
    identity = hash_of([VERSION, {leaf: task_identity(task) for leaf, task in leaves.items()}])
    return LoadedTask(name, leaves, found.get("groups", {}), identity)


def set_num_fewshot(task, num_fewshot: int | None) -> None:
    """Set the number of solved examples as the harness does: a task that sets 0 keeps it, one that sets none has 0."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def is_out_of_reach(error: BaseException) -> bool:
    """Return whether an error means that the Hub could not be reached."""
    text = f"{reason(error)} {error}"
    return is_offline(error) or isinstance(error, ConnectionError) or any(part in text for part in LOADERS_OFFLINE)


def task_identity(task) -> list:
    """Return the settings of a task, and the hash of each split of its rows."""
    settings = {key: value for key, value in task.dump_config().items() if key not in ("metadata", "dataset_kwargs")}
    splits = task.dataset if isinstance(task.dataset, dict) else {"": task.dataset}
    return [settings, {name: content_hash(rows) for name, rows in splits.items()}]


def run_task(model: HarnessModel, task: LoadedTask, config: BenchConfig) -> dict:
    """Run a task on a model and return the results of the harness.

    Raises:
        HfkitError: the task fails, for example because a question is too long for the model.
    """
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    for leaf in task.leaves.values():
        leaf.set_fewshot_seed(config.seed)
    try:
        with template_context(config.allow_code):
            # simple_evaluate would collect this machine's environment each time, which takes seconds
            return lm_eval.evaluate(
                lm=model,
                task_dict={"tasks": task.leaves, "groups": task.groups},
                limit=config.limit,
                apply_chat_template=config.apply_chat_template,
                fewshot_as_multiturn=config.apply_chat_template,
                bootstrap_iters=RESAMPLES,
                confirm_run_unsafe_code=config.allow_code,
            )
    except (RenderError, AssertionError, LookupError, SecurityError, TypeError, ValueError) as error:
        raise HfkitError(f"the task {task.name} failed: {reason(error)}") from error
