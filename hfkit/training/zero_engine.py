"""Starts DeepSpeed's engine without training, to evaluate or save the weights of a checkpoint."""

from contextlib import suppress

from transformers import Trainer, TrainerCallback


class EngineStartedError(Exception):
    """Ends `Trainer.train` before its first step."""


class StopBeforeFirstStep(TrainerCallback):
    """Ends training as soon as the engine has loaded its checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        raise EngineStartedError


def start_engine(trainer: Trainer, checkpoint: str) -> None:
    """Load a checkpoint into a trainer under DeepSpeed; every process must call this.

    The model then has the checkpoint's weights and can compute, under ZeRO-3 too. A later `Trainer.train` starts a new
    engine.
    """
    stop = StopBeforeFirstStep()
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(0, stop)  # first, so that no other callback treats this as the start of training
    with suppress(EngineStartedError):
        trainer.train(resume_from_checkpoint=checkpoint)
    callbacks.remove(stop)
    trainer.model_wrapped, trainer.is_in_train = trainer.model, False
