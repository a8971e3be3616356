"""A run: one stage writing one folder. Opens it without losing what is there, resumes it, publishes it.

The folder while it trains: `hfkit.json` (status running), `metrics.jsonl`, `checkpoint-N/`. Once done: the artefact,
its model card, `loss.png`, and a record that says so. What reads a folder asks the record first.
"""

import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from hfkit.console import is_main_process, say
from hfkit.errors import HfkitError
from hfkit.record import (
    RECORD,
    environment,
    hash_of,
    leavings,
    peak_memory_bytes,
    read_record,
    settings_of,
    write_json,
)

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
        }
        self.before = read_record(self.folder)
        self._refuse_other()
        self.is_done = self.before is not None and self.before["status"] == "done"
        self.checkpoint = last_complete_checkpoint(self.folder) if self.before and not self.is_done else None
        resume = getattr(config, "resume_from_checkpoint", True)
        if self.checkpoint and not resume:
            raise HfkitError(
                f"{self.folder} holds an interrupted run (last checkpoint: {self.checkpoint.name}). Go on with "
                "--resume_from_checkpoint, or start afresh with another --output_dir."
            )

    def _refuse_other(self) -> None:
        if self.before is None:
            if self.folder.is_dir() and {*self.folder.iterdir()} - {*leavings(self.folder)}:
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
        """Marks the run as running, then failed if anything is raised; `publish` marks it done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in leavings(self.folder) if is_main_process() else []:
            file.unlink()
        self.started = time.time()
        if self.before and self.checkpoint:
            say(f"{self.stage}: going on from {self.checkpoint.name}")
            self.record["resumed_from"] = self.checkpoint.name
        self._save()
        try:
            yield self
        except BaseException as error:
            self.record.update(status="failed", error=type(error).__name__)
            self._save()
            raise

    def publish(self, save, metrics: dict, **facts) -> None:
        """Puts the artefact into the folder and marks the run done.

        Args:
            save: called with an empty folder beside the run's own files; what it writes there is moved in at the end,
                so that a reader never sees half an artefact under its final name.
            metrics: final figures.
            facts: steps, tokens, train_seconds and the like.
        """
        from hfkit.card import write_card
        from hfkit.plots import plot_metrics

        if not is_main_process():
            return
        staging = self.folder / STAGING
        shutil.rmtree(staging, ignore_errors=True)  # our own leavings of a publication that was interrupted
        staging.mkdir()
        save(staging)
        for file in staging.iterdir():
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
        plot_metrics(self.folder)
        write_card(self.folder, self.record, self.config)
        self._save()
        say(f"{self.stage}: done in {self.record['wall_seconds']:.0f} s, in {self.folder}")

    def _save(self) -> None:
        if is_main_process():
            write_json(self.folder / RECORD, self.record)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end.

    The trainer writes `trainer_state.json` after everything else, so a checkpoint whose state can be read is whole.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, json.JSONDecodeError):
            continue
        return path
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
    if weights[0] != weights[1]:
        differing.append(("weights it starts from", *weights))
    return differing
