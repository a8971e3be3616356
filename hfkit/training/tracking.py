"""What `report_to` gets beside the trainer's arguments and metrics: the run's own config, data and lineage."""

import json
from contextlib import ExitStack, suppress

from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

# What is attached of a record, under the key `hfkit`.
ATTACHED = ("stage", "config", "config_sha256", "data", "data_sha256", "lineage", "base", "seed", "environment")


class WandbRun(WandbCallback):
    """With the record in the run's config."""

    def __init__(self, facts: dict):
        super().__init__()
        self.facts = facts

    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            self._wandb.config.update({"hfkit": self.facts}, allow_val_change=True)


class TrackioRun(TrackioCallback):
    """With the record in the run's config."""

    def __init__(self, facts: dict):
        super().__init__()
        self.facts = facts

    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            self._trackio.config.update({"hfkit": self.facts}, allow_val_change=True)


class TensorBoardRun(TensorBoardCallback):
    """With the record as a text, and its settings as hyper-parameters."""

    def __init__(self, facts: dict):
        super().__init__()
        self.facts = facts

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        if self.tb_writer is None:
            return
        self.tb_writer.add_text("hfkit", f"```json\n{json.dumps(self.facts, indent=2, ensure_ascii=False)}\n```")
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 - an optional package

        settings = {key: plain_value(value) for key, value in self.facts["config"].items() if value is not None}
        for summary in hparams(settings, {"train/loss": None, "eval/loss": None}):
            self.tb_writer.file_writer.add_summary(summary)


TRACKERS = {WandbCallback: WandbRun, TrackioCallback: TrackioRun, TensorBoardCallback: TensorBoardRun}


def plain_value(value: object) -> bool | int | float | str:
    """A setting as TensorBoard takes it."""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, ensure_ascii=False)


def track(trainer: Trainer, record: dict, closing: ExitStack) -> None:
    """Attaches a record to the trackers of a trainer, and has their runs end with `closing`.

    Otherwise the next stage of this process would go on in the run of this one: the trainer's callbacks leave it open,
    or open it anew for an evaluation after the last step. A run of wandb that is open already is the caller's.
    """
    facts = {key: record[key] for key in ATTACHED if key in record}
    for callback in [*trainer.callback_handler.callbacks]:
        if type(callback) in TRACKERS:
            trainer.remove_callback(callback)
            trainer.add_callback(TRACKERS[type(callback)](facts))
    if "wandb" in trainer.args.report_to:
        import wandb  # noqa: PLC0415 - an optional package

        if wandb.run is None:
            closing.push(lambda error, *_: wandb.finish(exit_code=int(error is not None)))
    if "trackio" in trainer.args.report_to:
        closing.callback(finish_trackio)


def finish_trackio() -> None:
    """Ends trackio's run if one is open."""
    import trackio  # noqa: PLC0415 - an optional package

    with suppress(RuntimeError):  # none is
        trackio.finish()
