"""Attaches a run's config, data and lineage to the trackers of `report_to`."""

import json
from contextlib import ExitStack, suppress
from importlib import import_module

from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hfkit.core.masking import without_secrets

# The keys of a record that trackers get under the key `hfkit`.
ATTACHED = ("stage", "config", "config_sha256", "data", "data_sha256", "lineage", "base", "seed", "environment")


class WithRecord:
    """A mixin for the callback of a tracker that holds the run's record."""

    def __init__(self, record: dict):
        super().__init__()
        self.record = record


class WithRecordInConfig(WithRecord):
    """A mixin for a tracker whose runs have a config."""

    library: str

    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            import_module(self.library).config.update({"hfkit": self.record}, allow_val_change=True)


class WandbRun(WithRecordInConfig, WandbCallback):
    """Adds the record to the config of a run of wandb."""

    library = "wandb"


class TrackioRun(WithRecordInConfig, TrackioCallback):
    """Adds the record to the config of a run of trackio."""

    library = "trackio"


class TensorBoardRun(WithRecord, TensorBoardCallback):
    """Adds the record as text, and its config as hyperparameters."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.tb_writer is None:
            return
        self.tb_writer.add_text("hfkit", f"```json\n{json.dumps(self.record, indent=2, ensure_ascii=False)}\n```")
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 - an optional package

        settings = {
            key: value if isinstance(value, (bool, int, float, str)) else json.dumps(value, ensure_ascii=False)
            for key, value in self.record["config"].items()
            if value is not None
        }
        for summary in hparams(settings, {"train/loss": None, "eval/loss": None}):
            self.tb_writer.file_writer.add_summary(summary)


TRACKERS = {WandbCallback: WandbRun, TrackioCallback: TrackioRun, TensorBoardCallback: TensorBoardRun}


def attach_record(trainer: Trainer, record: dict, closing: ExitStack) -> None:
    """Attach a record to the trackers of a trainer, and end their runs with `closing`.

    The trainer's callbacks leave a run open, or reopen it for an evaluation after the last step, so the next stage in
    this process would log to it. A wandb run that was open before belongs to the caller and stays open.
    """
    attached = without_secrets({key: record[key] for key in ATTACHED if key in record})
    for callback in [*trainer.callback_handler.callbacks]:
        if type(callback) in TRACKERS:
            trainer.remove_callback(callback)
            trainer.add_callback(TRACKERS[type(callback)](attached))
    if "wandb" in trainer.args.report_to:
        import wandb  # noqa: PLC0415 - an optional package

        if wandb.run is None:
            closing.push(lambda error, *_: wandb.finish(exit_code=int(error is not None)))
    if "trackio" in trainer.args.report_to:
        import trackio  # noqa: PLC0415 - an optional package

        @closing.callback
        def finish_trackio() -> None:
            with suppress(RuntimeError):  # no run is open
                trackio.finish()
