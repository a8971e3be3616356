"""How training ended: the published step, early stopping, and what the record and the terminal get."""

from pathlib import Path

from transformers import EarlyStoppingCallback, Trainer, TrainerState

from hfkit.core.console import say, warn
from hfkit.core.errors import HfkitError
from hfkit.core.kept_logs import kept_logs
from hfkit.training.interruption import CONTROL
from hfkit.training.run import Run


def published_step(trainer: Trainer) -> int:
    """Return the step of the weights in a trained trainer: that of the best checkpoint if it was loaded."""
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    return int(Path(best).name.rpartition("-")[2]) if best else trainer.state.global_step


def end_facts(trainer: Trainer, run: Run) -> dict:
    """Return and print how training ended: facts of early stopping and of the best checkpoint, for the record."""
    stopped, best = early_stop_facts(trainer, run.config), best_checkpoint_facts(trainer)
    if own_stop(trainer):
        warn(stopped["stopped"])
    elif stopped:
        say(f"{run.stage}: stopped at step {trainer.state.global_step}: {stopped['stopped']}")
    if best:
        say(f"{run.stage}: the weights of step {best['best_step']} are published, the best by {best['best_metric']}")
    return best | stopped


def best_checkpoint_facts(trainer: Trainer) -> dict:
    """Return `best_step` and `best_metric` for the record if the best checkpoint was loaded, else nothing.

    Warns if no checkpoint was saved at the best evaluation.
    """
    state, published, metric = trainer.state, published_step(trainer), trainer.args.metric_for_best_model
    if not trainer.args.load_best_model_at_end:
        return {}
    if state.best_global_step not in (None, published):
        warn(
            f"{metric} was best at step {state.best_global_step}, which has no checkpoint: the weights of step "
            f"{published} are published. Set save_steps to eval_steps"
        )
    return {"best_step": published, "best_metric": metric} if state.best_model_checkpoint else {}


def has_stopped(state: TrainerState) -> bool:
    """Return whether early stopping had ended training when this state was saved."""
    if kept_logs(state).get("stopped"):
        return True
    control, stopping = (state.stateful_callbacks.get(name, {}) for name in (CONTROL, EarlyStoppingCallback.__name__))
    if not control.get("args", {}).get("should_training_stop") or not stopping:
        return False
    return stopping["attributes"]["early_stopping_patience_counter"] >= stopping["args"]["early_stopping_patience"]


def has_lost_patience(trainer: Trainer) -> bool:
    """Return whether early stopping has ended training."""
    stopping = [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
    return any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in stopping)


def own_stop(trainer: Trainer) -> str | None:
    """Return why a trainer of hfkit stopped before its last step, or None."""
    return getattr(trainer, "stopped", None)


def require_planned_end(trainer: Trainer, is_known: bool) -> None:
    """Raise HfkitError if training ended before its last step, unless the reason `is_known`."""
    step, planned = trainer.state.global_step, trainer.state.max_steps
    if 0 < step < planned and not is_known:
        raise HfkitError(
            f"training ended at step {step} of {planned} for an unknown reason: remove the callback or the trainer's "
            "key that stops it, then resume with --resume_from_checkpoint"
        )


def early_stop_facts(trainer: Trainer, config) -> dict:
    """Return `stopped`, the reason why training ended before its last step, for the record; else nothing."""
    state, patience = trainer.state, config.early_stopping_patience
    if reason := own_stop(trainer):
        return {"stopped": reason}
    if not patience or state.global_step >= state.max_steps:
        return {}
    since = f" since step {state.best_global_step}" if state.best_global_step else ""  # set if checkpoints are saved
    metric = trainer.args.metric_for_best_model
    return {"stopped": f"{metric} has not improved in {patience} evaluations{since} (early_stopping_patience)"}
