"""Starts DeepSpeed's engine without a step of training, for what is left to do with a checkpoint's weights."""

from contextlib import suppress

from transformers import Trainer, TrainerCallback


class EngineStartedError(Exception):
    """Ends `Trainer.train` before its first step."""


class StopBeforeFirstStep(TrainerCallback):
    """Ends training as soon as the engine has loaded its checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        raise EngineStartedError


def start_engine(trainer: Trainer, checkpoint: str) -> None:
    """Load a checkpoint into a trainer under DeepSpeed; every process has to call it.

    The weights of its model are then those of the checkpoint, and it computes under ZeRO-3 too. A later
    `Trainer.train` starts an engine of its own.
    """
    stop = StopBeforeFirstStep()
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(0, stop)  # no other one may take this for a start of training
    with suppress(EngineStartedError):
        trainer.train(resume_from_checkpoint=checkpoint)
    callbacks.remove(stop)
    trainer.model_wrapped, trainer.is_in_train = trainer.model, False
