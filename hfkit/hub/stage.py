"""The pushes of a stage: when it is done, and with each checkpoint if asked for.

None of them stops a training: one that does not come off is told, with the command that makes up for it.
"""

import shlex
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from hfkit.core.console import is_main_process, say, warn
from hfkit.core.errors import HfkitError, reason
from hfkit.hub.homes import home_of
from hfkit.hub.push import push
from hfkit.records.source import ADAPTER_CONFIG, Source, read_json

UNDONE: dict[Path, list[str]] = {}
"""Folders whose push did not come off in this process, with the commands that make up for it."""


def then_push(main: Callable[[object], Path]) -> Callable[[object], Path]:
    """The main function of a stage, followed by the push of its folder if its config has `push_to_hub`."""

    @wraps(main)
    def stage(config) -> Path:
        if config.push_to_hub:
            tell_of_base(config)
        folder = main(config)
        if config.push_to_hub:
            push_run(config, folder)
        return folder

    return stage


def tell_of_base(config) -> None:
    """Says, before an adapter is trained, that its base is to be pushed before it."""
    if getattr(config, "use_peft", False):
        base = Source.of(config.model_name_or_path, config.model_revision).base
        if is_unshared(base):
            warn(f"the base {base} is on this machine alone; it is to be pushed before the adapter: hfkit push {base}")


def is_unshared(base: str) -> bool:
    """Whether a base is a folder that was never pushed."""
    return bool(base) and Path(base).is_dir() and home_of(base) is None


def repo_of(config) -> str:
    """The repository of a run: as configured, or by the name of its folder."""
    return config.hub_model_id or Path(config.output_dir).resolve().name


def push_run(config, folder: Path, record: dict | None = None, message: str | None = None) -> None:
    """Pushes a folder to the repository of a run, from the main process; a failure is told and raises nothing.

    Args:
        folder: the run's own, or one that holds what it has come to so far.
        record: of the run, if it still goes on.
    """
    if not is_main_process():
        return
    options = {"private": config.hub_private_repo, "revision": config.hub_revision}
    try:
        pushed = push(folder, repo_of(config), record=record, message=message, **options)
        say(f"{message or 'the run'} is at {pushed.url}, commit {pushed.commit}")
    except Exception as error:  # whatever it is, the training was not in vain
        why = str(error) if isinstance(error, HfkitError) else reason(error)
        if record is not None:
            return warn(f"{message} was not pushed, and the training goes on: {why}")
        UNDONE[folder.resolve()] = commands(config, folder)
        lines = "\n  ".join(UNDONE[folder.resolve()])
        warn(f"the run is done, and was not pushed: {why}\nThis pushes it:\n  {lines}")


def commands(config, folder: Path) -> list[str]:
    """The commands that push a run, that of its base first."""
    words = ["hfkit", "push", str(folder), repo_of(config)]
    if config.hub_private_repo is not None:
        words.append("--private" if config.hub_private_repo else "--public")
    if config.hub_revision != "main":
        words += ["--revision", config.hub_revision]
    base = (read_json(str(folder), ADAPTER_CONFIG) or {}).get("base_model_name_or_path") or ""
    before = UNDONE.get(Path(base).resolve(), [])
    if is_unshared(base) and not before:
        words += ["--with_base", Path(base).name]
    return [*before, shlex.join(words)]


def push_so_far(run, save: Callable[[Path], None], step: int) -> None:
    """Pushes the weights of a run that goes on, with its record and without its optimizer.

    Args:
        save: writes model and tokenizer into a folder.
    """
    with tempfile.TemporaryDirectory(prefix=".hub-", dir=run.folder) as folder:
        save(Path(folder))
        push_run(run.config, Path(folder), run.record, f"step {step}")
