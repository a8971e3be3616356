"""Push a stage's run to the Hub (`push_to_hub: true`), when it is done and with each checkpoint if requested.

A failed push never stops training: it is reported, with the command to repeat it.
"""

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path

from transformers import TrainerCallback

from hfkit.core.console import debug, is_main_process, say, take_warnings, warn
from hfkit.core.errors import HfkitError, reason
from hfkit.core.temporary import temporary_folder
from hfkit.hub.locations import location_of
from hfkit.hub.push import push
from hfkit.records.source import ADAPTER_CONFIG, Source, read_json

FAILED_PUSHES: dict[Path, list[str]] = {}
"""Folders whose push failed in this process, each with the commands that repeat it."""


def push_when_done(main: Callable[[object], Path]) -> Callable[[object], Path]:
    """Decorate the main function of a stage: push the folder it returns if the config has `push_to_hub`.

    Warnings from before the call are not added to the run's record.
    """

    @wraps(main)
    def run_and_push(config) -> Path:
        take_warnings()  # drops those of earlier work in this process
        if config.push_to_hub:
            warn_of_local_base(config)
        folder = main(config)
        if config.push_to_hub:
            push_run(config, folder)
        return folder

    return run_and_push


def warn_of_local_base(config) -> None:
    """Warn, before an adapter is trained, that its base must be pushed first."""
    if getattr(config, "use_peft", False):
        base = Source.of(config.model_name_or_path, config.model_revision).base
        if is_only_local(base):
            warn(f"the base {base} is not on the Hub; push it before the adapter: hfkit push {base} USER/NAME")


def is_only_local(base: str) -> bool:
    """Return whether a base is a folder that was never pushed."""
    return bool(base) and Path(base).is_dir() and location_of(base) is None


def repo_id_of(config) -> str:
    """Return the repository id of a run: `hub_model_id`, or the name of its folder."""
    return config.hub_model_id or Path(config.output_dir).resolve().name


def push_run(config, folder: Path, record: dict | None = None, message: str | None = None) -> None:
    """Push a folder to the repository of a run, on the main process; a failure is reported and raises nothing.

    Args:
        folder: the run's own, or one with a checkpoint of a run in progress.
        record: of the run in progress.
    """
    if not is_main_process():
        return
    options = {"private": config.hub_private_repo, "revision": config.hub_revision}
    try:
        pushed = push(folder, repo_id_of(config), record=record, message=message, **options)
        say(f"{message or 'the run'} is at {pushed.url}, commit {pushed.commit}")
    except Exception as error:  # no error may lose the trained model
        debug(error)
        why = str(error) if isinstance(error, HfkitError) else reason(error)
        if record is not None:
            return warn(f"{message} was not pushed, training continues: {why}")
        FAILED_PUSHES[folder.resolve()] = push_commands(config, folder)
        lines = "\n  ".join(FAILED_PUSHES[folder.resolve()])
        warn(f"the run is done, but was not pushed: {why}\nTo push it:\n  {lines}")


def push_commands(config, folder: Path) -> list[str]:
    """Return the commands that push a run, after those that push its base."""
    words = ["hfkit", "push", str(folder), repo_id_of(config)]
    if config.hub_private_repo is not None:
        words.append("--private" if config.hub_private_repo else "--public")
    if config.hub_revision != "main":
        words += ["--revision", config.hub_revision]
    base = (read_json(str(folder), ADAPTER_CONFIG) or {}).get("base_model_name_or_path") or ""
    before = FAILED_PUSHES.get(Path(base).resolve(), [])
    if is_only_local(base) and not before:
        words += ["--with_base", Path(base).name]
    return [*before, shlex.join(words)]


class PushCheckpointCallback(TrainerCallback):
    """Pushes each checkpoint, as `save` writes it (model and tokenizer), with the record of the run so far.

    Every process calls `save`, and the main one writes and pushes.
    """

    def __init__(self, run, save: Callable[[Path], None]):
        self.run, self.save = run, save

    def on_save(self, args, state, control, **kwargs):
        folder = self.run.folder / "hub"
        with temporary_folder(folder) if state.is_world_process_zero else nullcontext(folder) as folder:
            self.save(folder)
            push_run(self.run.config, folder, self.run.record, f"step {state.global_step}")
