"""Opens, resumes and publishes the run of a stage in its folder, without losing existing files.

During training the folder holds `hfkit.json` (status running), `metrics.jsonl` and `checkpoint-N/`; at the end also the
model, its card, `loss.png`, and a record with the status done. Code that reads a folder reads its record first.
"""

import json
import os
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGINT, Signals

from hfkit.config.neutral_keys import neutral_keys
from hfkit.config.registry import spec_of
from hfkit.core.console import is_main_process, say, take_warnings, warn
from hfkit.core.device import wait_for_everyone
from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import FullDiskError, explain_errors
from hfkit.core.files import RECORD, hash_of, read_json_mapping, write_record
from hfkit.core.interrupts import catch_signals, defer_signals, is_agreed, is_interruption, requested
from hfkit.core.locks import lock_folder
from hfkit.core.temporary import temporary_in
from hfkit.hub.cards.model_card import write_card
from hfkit.records.environment import environment, peak_memory_bytes, reset_peak_memory
from hfkit.records.record import read_record, settings_of, with_later_keys
from hfkit.training.checkpoint_state import engine_of_checkpoint, engine_of_launch, resume_warning
from hfkit.training.checkpoints import checkpoints_in, last_complete_checkpoint
from hfkit.training.plots import plot_metrics
from hfkit.training.sharding import CollectiveSave

STAGING = ".publishing"


class Run:
    """The folder `config.output_dir` as the run of one stage, with one config and one set of datasets.

    Args:
        stage: its name in the registry.
        config: the stage's config.
        data: statistics of the data, a dict per split.
        parents: lineage, as `record.lineage_entry` returns it.

    Raises:
        HfkitError: the folder holds other files, a run with other settings or data, or an interrupted run although
            `resume_from_checkpoint` is off. The folder is not changed.
    """

    def __init__(self, stage: str, config, data: dict[str, dict], parents: list[dict]):
        self.stage, self.config = stage, config
        self.folder = Path(config.output_dir)
        settings = settings_of(config)
        sources = {name: [one.get("sha256", one) for one in split["sources"]] for name, split in data.items()}
        self.record = {
            "stage": stage,
            "status": "running",
            "config": settings,
            "config_sha256": hash_of(settings),
            "data": data,
            "data_sha256": hash_of(sources),
            "lineage": parents,
            "seed": config.seed,
            "environment": environment(getattr(config, "extra", None)),
            "metrics": {},
            "warnings": [],
        }
        self.before = read_record(self.folder)
        before = self.before or {}
        self.is_done = before.get("status") == "done"
        self.checkpoint = last_complete_checkpoint(self.folder) if before and not self.is_done else None
        has_failed = before.get("status") in ("failed", "interrupted") and before.get("stage") == stage
        if self.checkpoint or not has_failed:  # a failed run without a checkpoint may restart with new settings
            self._refuse_other_run()
        if self.checkpoint and not getattr(config, "resume_from_checkpoint", True):
            raise HfkitError(
                f"{self.folder} holds an interrupted run (last checkpoint: {self.checkpoint.name}): resume it with "
                "--resume_from_checkpoint, or choose another --output_dir"
            )
        spec = spec_of(stage)
        if self.checkpoint and spec is not None and spec.loop == "trainer":
            self._require_same_engine()

    def update_license(self) -> None:
        """Write the license of the config into the record and card of a finished run."""
        name = self.record["config"].get("license")
        if name is None or name == self.before["config"].get("license") or not is_main_process():
            return
        config = {**self.before["config"], "license": name}
        self.record = {**self.before, "config": config}
        write_card(self.folder, self.record)
        write_record(self.folder / RECORD, self.record)
        say(f"{self.stage}: license: {name}, in its record and card")

    def _require_same_engine(self) -> None:
        saved, launched = engine_of_checkpoint(self.checkpoint), engine_of_launch(getattr(self.config, "extra", {}))
        if saved != launched:
            raise HfkitError(
                f"{self.checkpoint} was saved by {saved}, but this launch is {launched}: launch as before, or choose "
                "another --output_dir"
            )

    def _refuse_other_run(self) -> None:
        if self.before is None:
            if self.folder.is_dir() and {*self.folder.iterdir()} - {*temporary_in(self.folder)}:
                raise HfkitError(
                    f"{self.folder} is not empty and has no {RECORD} of an earlier run: choose another --output_dir"
                )
            return
        differing = _differences(self.before, self.record, type(self.config))
        if differing:
            lines = "\n".join(f"  {key}: was {before!r}, now {now!r}" for key, before, now in differing)
            raise HfkitError(
                f"{self.folder} holds a run with other settings:\n{lines}\n"
                "Choose another folder with --output_dir NEW_FOLDER."
            )

    @contextmanager
    def training(self):
        """Mark the run as running, then as interrupted or failed if an error is raised; `publish` marks it as done.

        `closing` is an ExitStack for callbacks at the end.

        Raises:
            HfkitError: another process trains in the folder, or the disk or the GPU memory is full.
        """
        wait_for_everyone()  # every process must have read the folder before one writes to it
        with lock_folder(self.folder), self._say_how_to_resume(), explain_errors(self.folder, self.config):
            if is_main_process() and (read_record(self.folder) or {}).get("status") == "done":
                raise HfkitError(f"another process has just finished a run in {self.folder}: run the command again")
            self._remove_unfinished()  # left by a killed run
            self.started = time.time()
            reset_peak_memory()
            if self.before and self.checkpoint:
                say(f"{self.stage}: resuming from {self.checkpoint.name}")
                self.record["resumed_from"] = self.checkpoint.name
                self.record["warnings"] = self.before.get("warnings", [])
                if warning := resume_warning(self.checkpoint, self.before, self.record):
                    warn(warning)
            self._save()
            with catch_signals():
                try:
                    with ExitStack() as self.closing:
                        yield self
                except BaseException as error:
                    self._mark_as_ended(error)
                    raise

    def _mark_as_ended(self, error: BaseException) -> None:
        """Record how a run ended if it was not published; a signal may also arrive after publication."""
        if self.record["status"] != "done":
            self._remove_unfinished()
            if is_interruption(error):
                self.record.update(status="interrupted", signal=Signals(requested() or SIGINT).name)
            else:
                self.record.update(status="failed", error=type(error).__name__)
            with suppress(OSError):  # the disk may be full
                self._save()
        if is_agreed():  # a launcher ends the other processes as soon as one exits
            wait_for_everyone()

    @contextmanager
    def _say_how_to_resume(self):
        """Add the checkpoint to resume from to the error of a full disk."""
        try:
            yield
        except FullDiskError as error:
            kept = last_complete_checkpoint(self.folder)
            resumes = getattr(self.config, "resume_from_checkpoint", True)
            flag = "" if resumes else " with --resume_from_checkpoint"
            remedy = f", then start again{flag} to resume from {kept.name}" if kept else ", then start again"
            raise FullDiskError(f"{error}{remedy}") from error.__cause__

    def _remove_unfinished(self) -> None:
        """Remove incomplete checkpoints and a failed publication, which only take disk space."""
        if not is_main_process():
            return
        shutil.rmtree(self.folder / STAGING, ignore_errors=True)
        for path in checkpoints_in(self.folder):
            if read_json_mapping(path / "trainer_state.json") is None:  # written last
                shutil.rmtree(path, ignore_errors=True)

    def note(self, **facts) -> None:
        """Add keys to the record during the run."""
        self.record.update(facts)
        self._save()

    def publish(self, save, metrics: dict, **facts) -> None:
        """Save the model into the folder and mark the run as done; every process waits for this.

        Args:
            save: called with an empty folder by the main process, or by every process if it is a `CollectiveSave`; the
                files are then moved into the run's folder, so that a reader never sees an incomplete file.
            metrics: final metrics.
            facts: further keys of the record, such as steps, tokens and train_seconds.
        """
        with defer_signals():
            staging = self.folder / STAGING
            if is_main_process():
                shutil.rmtree(staging, ignore_errors=True)  # left by an interrupted publication
                staging.mkdir()
            if is_main_process() or isinstance(save, CollectiveSave):
                save(staging)
            if is_main_process():
                self._publish(staging, metrics, facts)
            wait_for_everyone()  # the next stage of a pipeline reads this folder

    def _publish(self, staging: Path, metrics: dict, facts: dict) -> None:
        for file in staging.iterdir():
            if file.is_dir():  # os.replace cannot overwrite a folder that is not empty
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
            write_record(self.folder / RECORD, self.record)


def _differences(before: dict, now: dict, config_class: type) -> list[tuple]:
    """Return (key, value before, value now) of datasets, parents and settings that differ and change weights."""
    if before.get("stage") != now["stage"]:
        return [("stage", before.get("stage"), now["stage"])]
    old, new = with_later_keys(before.get("config") or {}, config_class), json.loads(json.dumps(now["config"]))
    neutral = neutral_keys(new)
    compared = [key for key in {**old, **new} if key not in neutral]
    differing = [(key, old.get(key), new.get(key)) for key in compared if old.get(key) != new.get(key)]
    if before.get("data_sha256") != now["data_sha256"]:
        differing.append(("datasets (their rows)", before.get("data_sha256", "")[:12], now["data_sha256"][:12]))
    weights = [[(parent["role"], parent["weights_sha256"]) for parent in r.get("lineage", [])] for r in (before, now)]
    roles = [[role for role, _ in parents] for parents in weights]
    hashes = [(one, other) for (_, one), (_, other) in zip(*weights, strict=False)]
    # the hash of a Hub model is None until it is fetched
    if roles[0] != roles[1] or any(one != other for one, other in hashes if one and other):
        differing.append(("weights of the starting model", *weights))
    return differing
