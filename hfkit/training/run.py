"""A run: one stage writing one folder. Opens it without losing what is there, resumes it, publishes it.

The folder while it trains: `hfkit.json` (status running), `metrics.jsonl`, `checkpoint-N/`. Once done: the artefact,
its model card, `loss.png`, and a record that says so. What reads a folder asks the record first.
"""

import json
import os
import re
import shutil
import time
import zipfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfkit.core.console import is_main_process, say, take_warnings, warn
from hfkit.core.device import wait_for_everyone
from hfkit.core.errors import HfkitError
from hfkit.core.files import RECORD, hash_of, leftover_files, read_json_mapping, write_json
from hfkit.core.locks import explain_errors, lock_folder
from hfkit.hub.cards.model_card import write_card
from hfkit.records.environment import environment, peak_memory_bytes, reset_peak_memory
from hfkit.records.record import read_record, settings_of
from hfkit.training.plots import plot_metrics

STAGING = ".publishing"


class Run:
    """The folder `config.output_dir` as the run of one stage with one config on one set of data.

    Args:
        stage: "tokenizer", "pretrain", "sft", "reward" or "ppo".
        config: the stage's config.
        data: account of the data, a dict per split.
        parents: lineage, as `record.parent_of` gives it.

    Raises:
        HfkitError: the folder holds something else, or a run with other settings or data, or an interrupted run that
            was not asked to go on. Nothing in it is touched.
    """

    def __init__(self, stage: str, config, data: dict[str, dict], parents: list[dict]):
        self.stage, self.config = stage, config
        self.folder = Path(config.output_dir)
        settings = settings_of(config)
        self.record = {
            "stage": stage,
            "status": "running",
            "config": settings,
            "config_sha256": hash_of(settings),
            "data": data,
            "data_sha256": hash_of(_identity(data)),
            "lineage": parents,
            "seed": config.seed,
            "environment": environment(),
            "metrics": {},
            "warnings": [],
        }
        self.before = read_record(self.folder)
        if not self._came_to_nothing():
            self._refuse_other()
        self.is_done = self.before is not None and self.before.get("status") == "done"
        self.checkpoint = last_complete_checkpoint(self.folder) if self.before and not self.is_done else None
        resume = getattr(config, "resume_from_checkpoint", True)
        if self.checkpoint and not resume:
            raise HfkitError(
                f"{self.folder} holds an interrupted run (last checkpoint: {self.checkpoint.name}). Go on with "
                "--resume_from_checkpoint, or start afresh with another --output_dir."
            )

    def _came_to_nothing(self) -> bool:
        """Whether what is there is a failed run without a checkpoint: with mended settings it may start anew."""
        failed = self.before is not None and self.before.get("status") == "failed"
        return failed and self.before.get("stage") == self.stage and last_complete_checkpoint(self.folder) is None

    def _refuse_other(self) -> None:
        if self.before is None:
            if self.folder.is_dir() and {*self.folder.iterdir()} - {*leftover_files(self.folder)}:
                raise HfkitError(
                    f"{self.folder} is not empty and has no {RECORD} of an earlier run: choose another --output_dir"
                )
            return
        differing = _differences(self.before, self.record)
        if differing:
            lines = "\n".join(f"  {key}: {was!r} there, {now!r} now" for key, was, now in differing)
            raise HfkitError(
                f"{self.folder} was made with other settings; it is left as it is.\n{lines}\n"
                "Train into a new folder with --output_dir NEW_FOLDER."
            )

    @contextmanager
    def training(self):
        """Marks the run as running, then failed if anything is raised; `publish` marks it done.

        What is pushed onto `closing`, an ExitStack, ends with it.

        Raises:
            HfkitError: another process trains into the folder; the disk is full; the GPU is.
        """
        wait_for_everyone()  # each process has read the folder as it was before this run wrote to it
        with lock_folder(self.folder), explain_errors(self.folder, self.config):
            if is_main_process() and (read_record(self.folder) or {}).get("status") == "done":
                raise HfkitError(
                    f"another process has just trained into {self.folder}: start again to see what it made"
                )
            yield from self._training()

    def _training(self):
        for file in leftover_files(self.folder) if is_main_process() else []:
            file.unlink()
        self.started = time.time()
        reset_peak_memory()
        if self.before and self.checkpoint:
            say(f"{self.stage}: going on from {self.checkpoint.name}")
            self.record["resumed_from"] = self.checkpoint.name
            self.record["warnings"] = self.before.get("warnings", [])
        self._save()
        try:
            with ExitStack() as self.closing:
                yield self
        except BaseException as error:
            self.record.update(status="failed", error=type(error).__name__)
            with suppress(OSError):  # a full disk has no room for this either
                self._save()
            raise

    def note(self, **facts) -> None:
        """Adds facts to the record while the run goes on."""
        self.record.update(facts)
        self._save()

    def publish(self, save, metrics: dict, **facts) -> None:
        """Puts the artefact into the folder and marks the run done; no process comes back before it is.

        Args:
            save: called with an empty folder beside the run's own files; what it writes there is moved in at the end,
                so that a reader never sees half an artefact under its final name.
            metrics: final figures.
            facts: steps, tokens, train_seconds and the like.
        """
        if is_main_process():
            self._publish(save, metrics, facts)
        wait_for_everyone()  # what a pipeline runs next starts from what is here

    def _publish(self, save, metrics: dict, facts: dict) -> None:
        staging = self.folder / STAGING
        shutil.rmtree(staging, ignore_errors=True)  # our own leavings of a publication that was interrupted
        staging.mkdir()
        save(staging)
        for file in staging.iterdir():
            if file.is_dir():  # a folder takes the place of none but an empty one
                shutil.rmtree(self.folder / file.name, ignore_errors=True)
            os.replace(file, self.folder / file.name)
        staging.rmdir()
        seconds = facts.get("train_seconds")
        if seconds and facts.get("tokens"):
            facts["tokens_per_second"] = round(facts["tokens"] / seconds, 1)
        self.record.update(
            status="done",
            wall_seconds=round(time.time() - self.started, 2),
            peak_memory_bytes=peak_memory_bytes(),
            metrics=metrics,
            **facts,
        )
        plot_metrics(self.folder, self.stage)
        write_card(self.folder, self.record)
        self._save()
        say(f"{self.stage}: done in {self.record['wall_seconds']:.0f} s, in {self.folder}")

    def _save(self) -> None:
        if is_main_process():
            self.record["warnings"] = [*dict.fromkeys([*self.record["warnings"], *take_warnings()])]
            write_json(self.folder / RECORD, self.record)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end.

    The trainer writes `trainer_state.json` after everything else; what a disk or a person broke later is seen too.
    """
    paths = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(paths, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        broken = checkpoint_fault(path)
        if broken is None:
            return path
        warn(f"{path} is left out: {broken}")
    return None


def checkpoint_fault(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be gone on from, or None; tensors are not read, only where they should lie."""
    for file in {checkpoint / "trainer_state.json", *checkpoint.glob("*_state.json")}:
        if read_json_mapping(file) is None:
            return f"{file.name} cannot be read"
    for wanted in ("optimizer*", "scheduler.pt", "rng_state*"):
        if not any(checkpoint.glob(wanted)):
            return f"{wanted} is missing"
    if not any(checkpoint.rglob("*model*")):
        return "its weights are missing"
    for file in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut off"
    for file in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(file, framework="np"):
                pass
        except (OSError, SafetensorError):
            return f"{file.name} is cut off"
    return None


def _identity(data: dict[str, dict]) -> dict:
    return {name: [source.get("sha256", source) for source in split["sources"]] for name, split in data.items()}


def _differences(before: dict, now: dict) -> list[tuple]:
    """(key, was, is) for each setting, data set or parent that differs."""
    if before.get("stage") != now["stage"]:
        return [("stage", before.get("stage"), now["stage"])]
    was, new = before.get("config", {}), json.loads(json.dumps(now["config"]))
    keys = [key for key in {**was, **new} if was.get(key) != new.get(key)]
    differing = [(key, was.get(key), new.get(key)) for key in keys]
    if before.get("data_sha256") != now["data_sha256"]:
        differing.append(("datasets (their rows)", before.get("data_sha256", "")[:12], now["data_sha256"][:12]))
    weights = [[(parent["role"], parent["weights_sha256"]) for parent in r.get("lineage", [])] for r in (before, now)]
    if len(weights[0]) != len(weights[1]) or any(map(_other_weights, *weights)):
        differing.append(("weights it starts from", *weights))
    return differing


def _other_weights(was: tuple, now: tuple) -> bool:
    """Whether (role, hash) differ; there is no hash as long as a Hub model is not fetched."""
    return was[0] != now[0] or (None not in (was[1], now[1]) and was[1] != now[1])
