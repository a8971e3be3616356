"""Saves a checkpoint when a signal stops training; all processes of a launch stop after the same step."""

from pathlib import Path

from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from hfkit.config.trainer_fields import METRIC_SCHEDULES
from hfkit.core.compat import determine_best_metric
from hfkit.core.console import say
from hfkit.core.device import largest_of_processes, random_state, restore_random_state, wait_for_everyone
from hfkit.core.interrupts import agree, defer_signals, interruption, requested
from hfkit.core.kept_logs import SCHEDULE_METRIC, KeepsLogs, kept_logs
from hfkit.training.checkpoints import checkpoint_fault
from hfkit.training.sharding import load_checkpoint

CONTROL = "TrainerControl"


class SaveOnSignal(TrainerCallback):
    """Stops training after a step, or between micro-batches, if a signal is pending; used within `defer_signals`.

    Several processes stop only after a step or within an evaluation, where they agree. A due evaluation is not run
    first: the checkpoint records it, and `finish_evaluation` runs it on resuming.
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.is_leaving = trainer, False
        self.random: dict = {}

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.remember(state)  # the data loader draws a seed next, and again on resuming

    def on_step_begin(self, args, state, control, **kwargs):
        if isinstance(self.trainer, KeepsLogs):
            self.logs = self.trainer.pending_logs()
        self.leave_as_before(state)

    def on_substep_end(self, args, state, control, **kwargs):
        self.leave_as_before(state)

    def on_step_end(self, args, state, control, **kwargs):
        self.remember(state)
        if state.epoch != int(state.epoch):  # at the end of an epoch, `on_epoch_end` follows
            self.stop_after_save(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.stop_after_save(control)

    def on_save(self, args, state, control, **kwargs):
        if self.is_leaving:
            leave(self.trainer)

    def on_prediction_step(self, args, state, control, **kwargs):
        if agree_on_signal():
            leave(self.trainer)

    def remember(self, state: TrainerState) -> None:
        """Keep the state that the next step changes before it changes weights."""
        self.random, self.tokens = random_state(self.trainer.accelerator.device), state.num_input_tokens_seen

    def leave_as_before(self, state: TrainerState) -> None:
        """After a signal, save a checkpoint of the last step and leave; several processes finish the step first."""
        if requested() and PartialState().num_processes == 1:
            self.undo(state)
            leave(self.trainer)

    def undo(self, state: TrainerState) -> None:
        """Undo the changes of the current step, which has not changed weights yet."""
        if self.random:
            restore_random_state(self.random, self.trainer.accelerator.device)
            state.num_input_tokens_seen = self.tokens
            if isinstance(self.trainer, KeepsLogs):
                self.trainer.set_pending_logs(self.logs)

    def stop_after_save(self, control) -> None:
        """Let the trainer save a checkpoint, unless an evaluation comes first."""
        if not control.should_evaluate and agree_on_signal():
            control.should_save = self.is_leaving = True


def agree_on_signal() -> bool:
    """Return whether any process of this launch got a signal; every process must call this."""
    number = requested() or 0
    if PartialState().num_processes > 1 and (number := largest_of_processes(number)):
        agree(number)
    return number > 0


def leave(trainer: Trainer, error: BaseException | None = None) -> None:
    """Save a checkpoint of the trainer's step if there is none, and raise an error, by default that of the signal.

    Args:
        trainer: with a method `save_checkpoint`.
    """
    step, args, control = trainer.state.global_step, trainer.args, trainer.control
    folder = Path(args.output_dir) / f"checkpoint-{step}"
    is_over = control.should_training_stop and not control.should_evaluate
    has_best = args.load_best_model_at_end and is_over  # then the weights are not those of the step
    wait_for_everyone()  # the main process may still be writing the checkpoint
    if step and checkpoint_fault(folder) and not has_best:
        trainer.save_checkpoint()
    if step:
        say(f"{folder} is saved")
    raise error or interruption()


def leave_step(trainer: Trainer, error: BaseException | None = None) -> None:
    """Leave within a step in all processes, with a checkpoint of the last step; see `leave`."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, SaveOnSignal):
            callback.undo(trainer.state)
    leave(trainer, error)


def own_state(trainer: Trainer, checkpoint: str) -> TrainerState:
    """Return the state in a checkpoint, which the main process saved, as the state of this process."""
    state = TrainerState.load_from_json(f"{checkpoint}/trainer_state.json")
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    return state


def finish_evaluation(trainer: Trainer, checkpoint: str) -> None:
    """Run the evaluation that a signal interrupted, and record it in the checkpoint as in an uninterrupted run."""
    state = own_state(trainer, checkpoint)
    if not state.stateful_callbacks.get(CONTROL, {}).get("args", {}).get("should_evaluate"):
        return
    load_checkpoint(trainer, checkpoint)
    trainer.state = state
    if isinstance(trainer, KeepsLogs):
        trainer.set_counts(kept_logs(state))
    stateful = [one for one in trainer.callback_handler.callbacks if isinstance(one, ExportableState)]
    for one in stateful:
        for key, value in state.stateful_callbacks.get(type(one).__name__, {}).get("attributes", {}).items():
            setattr(one, key, value)
    with defer_signals():
        metrics = trainer.evaluate()
        if determine_best_metric(trainer, metrics):
            state.best_model_checkpoint = checkpoint
    if trainer.args.lr_scheduler_type in METRIC_SCHEDULES:  # which has no state before training
        kept_logs(state)[SCHEDULE_METRIC] = metrics[f"eval_{trainer.args.metric_for_best_model.removeprefix('eval_')}"]
    state.stateful_callbacks |= {type(one).__name__: one.state() for one in [*stateful, trainer.control]}
    if trainer.is_world_process_zero():
        state.save_to_json(f"{checkpoint}/trainer_state.json")
    wait_for_everyone()
