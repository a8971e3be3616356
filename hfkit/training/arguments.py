"""Builds the trainer's arguments from a stage's config, sets its callbacks and runs its training loop."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from peft import PeftModel
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.utils import is_torch_tf32_available

from hfkit.config.fields import HubFields
from hfkit.config.trainer_fields import METRIC_SCHEDULES
from hfkit.core.compat import use_one_gpu
from hfkit.core.console import is_main_process, warn
from hfkit.core.device import has_bf16, process_state, wait_for_everyone
from hfkit.core.errors import HfkitError
from hfkit.core.files import read_json_mapping, write_json
from hfkit.core.interrupts import defer_signals
from hfkit.core.kept_logs import KeepsLogs, kept_logs, use_evaluated_weights
from hfkit.core.launch import engine
from hfkit.hub.push_to_hub import PushCheckpointCallback
from hfkit.models.precision import computes_in_bf16
from hfkit.training.callbacks import GroupedOrder, KeepProcessor, MetricsFile, Resume, TrainingProgress
from hfkit.training.checkpoints import checkpoint_fault, require_own_weights
from hfkit.training.interruption import SaveOnSignal, finish_evaluation, own_state
from hfkit.training.run import Run
from hfkit.training.sharding import has_finite_weights, load_checkpoint, require_equal_weights
from hfkit.training.tracking import attach_record
from hfkit.training.training_end import (
    end_facts,
    has_lost_patience,
    has_stopped,
    own_stop,
    published_step,
    require_planned_end,
)

# The trainer's own pushes run in the background and fail silently; the tokenizer already has its pad token.
NOT_FOR_THE_TRAINER = {field.name for field in fields(HubFields)} | {"resume_from_checkpoint", "pad_token"}
FALLING_METRICS = ("perplexity", "bits_per_byte", "calibration_error")
"""Metrics of which the lowest is best, in addition to the losses, which Transformers knows."""
RECOMPUTES = "activation_checkpointing"
"""The name of `gradient_checkpointing` in newer versions of Transformers."""


def trainer_arguments(config, **overrides):
    """Return the trainer's arguments: the fields it shares with a stage's config, then `extra`, then `overrides`.

    `bf16`, `gradient_checkpointing` and `optim` get their defaults here, since these depend on the device; after
    `plan_run`, `gradient_checkpointing` is set already.
    """
    state = process_state(config.extra)  # joins the process group first
    kind, extra = state.device.type, dict(config.extra)
    if is_torch_tf32_available():  # set by `prepare_device`; PyTorch raises if its old and new settings are mixed
        extra.pop("tf32", None)
    if state.num_processes == 1:
        extra.pop("ddp_backend", None)
    config_class = type(config).trainer_config_class()
    names = {field.name for field in fields(config_class)}
    shared = names & {field.name for field in fields(config)}
    values = {name: getattr(config, name) for name in shared - NOT_FOR_THE_TRAINER}
    defaults = {
        **device_defaults(config, kind, has_bf16()),
        "run_name": "-".join(Path(config.output_dir).resolve().parts[-2:]),
    }
    values |= {key: default for key, default in defaults.items() if values.get(key) is None}
    if RECOMPUTES in names:  # the new name; Transformers warns of the old one
        values[RECOMPUTES] = values.pop("gradient_checkpointing")
    # all adapters are used, so searching for unused parameters would only slow each step
    if getattr(config, "use_peft", False):
        values["ddp_find_unused_parameters"] = False
    if kind == "cpu":
        values["use_cpu"] = True  # Transformers refuses bf16 otherwise, which a CPU supports
    values |= best_defaults(config)
    arguments = config_class(**{**values, "disable_tqdm": True, **extra, **overrides})
    if arguments.lr_scheduler_type in METRIC_SCHEDULES:  # they assume that every metric should fall
        mode = "max" if arguments.greater_is_better else "min"
        arguments.lr_scheduler_kwargs = {"mode": mode, **(arguments.lr_scheduler_kwargs or {})}
    if arguments.n_gpu > 1:  # nn.DataParallel computes wrong gradients over quantized bases and breaks TRL's losses
        use_one_gpu(arguments)
    return arguments


@contextmanager
def loading_in_shards(config):
    """Make each process keep only its part of the weights loaded in the block, if ZeRO-3 trains this config.

    Transformers does so as long as training arguments with DeepSpeed's settings exist.
    """
    arguments = trainer_arguments(config) if engine(config.extra) == "zero3" else None
    yield
    del arguments


def best_defaults(config) -> dict:
    """Return the trainer's arguments that early stopping and the choice of the best checkpoint need.

    Transformers assumes that every metric except a loss should rise, and restarts its count on resuming.
    """
    patience, metric = getattr(config, "early_stopping_patience", None), config.extra.get("metric_for_best_model")
    values: dict = {"restore_callback_states_from_checkpoint": True} if patience else {}
    if patience and not hasattr(config, "metric_for_best_model"):
        values["metric_for_best_model"] = "eval_loss"
    if metric and metric.removeprefix("eval_") in FALLING_METRICS:
        values["greater_is_better"] = False
    return values


def device_defaults(config, kind: str, bf16: bool) -> dict:
    """Return the defaults of a stage's config that depend on the device.

    Args:
        kind: of the device, "cuda" or "cpu".
        bf16: whether it supports bf16.
    """
    return {
        "bf16": computes_in_bf16(config, bf16),
        "gradient_checkpointing": kind == "cuda",
        "optim": "adamw_torch_fused" if kind == "cuda" else "adamw_torch",  # the fused kernel copies no trained weights
    }


def max_tokens(config, length: int, sequences: int = 1) -> int | None:
    """Return the most tokens of a micro-batch, padding included; None if batches are not split.

    Args:
        length: the most tokens of a sequence.
        sequences: sequences in a row.
    """
    if not config.micro_batches_by_length:
        return None
    return config.max_tokens_per_micro_batch or config.per_device_train_batch_size * length * sequences


def set_callbacks(trainer: Trainer, run: Run, save: Callable[[Path], None], *more: TrainerCallback) -> None:
    """Replace the trainer's console output by hfkit's callbacks, and attach the run's record to its trackers.

    Args:
        save: saves the model in its current state into a folder.
    """
    trainer.remove_callback(PrinterCallback)
    # TRL's card, written with each checkpoint, would overwrite an existing README.md
    trainer.create_model_card = lambda *args, **kwargs: None
    trainer.add_callback(KeepProcessor())  # before the one that ends the run after a signal
    trainer.add_callback(SaveOnSignal(trainer))  # must run before checkpoints are pushed
    if run.config.push_to_hub and run.config.hub_strategy == "every_save":
        trainer.add_callback(PushCheckpointCallback(run, save))
    for callback in (MetricsFile(run.folder), TrainingProgress(run.stage), GroupedOrder(), *more):
        trainer.add_callback(callback)
    if patience := run.config.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=patience))
    attach_record(trainer, run.record, run.closing)


@contextmanager
def keep_trainable_dtype(model: PreTrainedModel | PeftModel):
    """Restore the dtype of trainable weights after the constructor of a TRL trainer.

    Over a quantized base TRL casts them to bf16, which loses the small updates at the end of a run; without autocast
    the first step would also mix them with fp32 activations.
    """
    kept = {parameter: parameter.data for parameter in model.parameters() if parameter.requires_grad}
    yield
    for parameter, data in kept.items():
        if parameter.dtype != data.dtype:
            parameter.data = data


def train(trainer: Trainer, run: Run) -> dict:
    """Train, from the last complete checkpoint if the run has one.

    Returns:
        facts for the record: steps, best_step and best_metric with `load_best_model_at_end`, stopped (the reason, if
        early), tokens, train_seconds (including those before resuming), train_loss (mean over the steps up to the
        published one).

    Raises:
        HfkitError: no step was taken, training ended early for no known reason, or weights are not finite.
    """
    checkpoint = str(run.checkpoint) if run.checkpoint else None
    correct_best_checkpoint(run)
    if checkpoint:
        trainer.args.eval_on_start = False  # the run has evaluated at its first start
        finish_evaluation(trainer, checkpoint)
    before = own_state(trainer, checkpoint) if checkpoint else TrainerState()
    if isinstance(trainer, KeepsLogs):
        trainer.set_counts(kept_logs(before))
        if run.checkpoint:
            require_own_weights(run.checkpoint, trainer.accelerator.unwrap_model(trainer.model))
    kept = kept_logs(before)
    seconds_before, mean_loss = kept.get("seconds", 0.0), kept.get("loss", 0.0) / max(before.global_step, 1)
    trainer.started = time.time() - seconds_before
    run.started -= seconds_before
    if before.max_steps and (before.global_step >= before.max_steps or has_stopped(before)):
        # interrupted after the last step: trainer.train() would take one more step
        best = before.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        load_checkpoint(trainer, best or checkpoint)
        trainer.state = before
        if trainer.is_world_process_zero():
            MetricsFile(run.folder).rewrite(before.log_history)
    else:
        trainer.add_callback(Resume(trainer))
        require_equal_weights(trainer)
        with defer_signals():
            mean_loss = trainer.train(resume_from_checkpoint=checkpoint).training_loss
        if isinstance(trainer, KeepsLogs) and trainer.state.global_step:
            mean_loss = trainer.mean_loss()
        if not (trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint):
            use_evaluated_weights(trainer)
        require_planned_end(trainer, bool(own_stop(trainer)) or has_lost_patience(trainer))
    if trainer.state.global_step == 0:
        raise HfkitError("no step was taken, since the rows do not fill one batch: lower the batch size")

    if not has_finite_weights(trainer.model, trainer.accelerator):
        raise HfkitError(
            "the weights are not finite: lower learning_rate, train with bf16 or float32, or set "
            "attn_implementation: eager"
        )
    published = published_step(trainer)
    logged = [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]
    logged = [log for log in logged if log[0] <= published] or logged
    return {
        "steps": trainer.state.global_step,
        **end_facts(trainer, run),
        "tokens": trainer.state.num_input_tokens_seen,
        "train_seconds": round(time.time() - trainer.started, 2),
        "train_loss": mean_logged_loss(logged) if logged else mean_loss,
    }


def correct_best_checkpoint(run: Run) -> None:
    """Correct the path of the best checkpoint in the state to resume from, since the folder may have moved.

    If that checkpoint is missing, warn, and choose the best among later checkpoints.
    """
    if run.checkpoint and is_main_process():
        file = run.checkpoint / "trainer_state.json"
        state = read_json_mapping(file) or {}
        named = state.get("best_model_checkpoint")
        best = run.folder / Path(named).name if named else None
        if best and checkpoint_fault(best):
            warn(f"the best checkpoint, {best}, cannot be read: the best of the later checkpoints will be published")
            write_json(file, state | {"best_model_checkpoint": None, "best_metric": None, "best_global_step": None})
        elif best and named != str(best):
            write_json(file, state | {"best_model_checkpoint": str(best)})
    wait_for_everyone()


def mean_logged_loss(logged: list[tuple[int, float]]) -> float:
    """Return the mean loss of a run from all its logs (step, mean since the previous log), also before resuming."""
    steps = [0, *(step for step, _ in logged)]
    total = sum((step - before) * loss for before, (step, loss) in zip(steps, logged, strict=False))
    return total / steps[-1]


def held_out_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the held-out metrics of the published weights, from the evaluation at their step or from a new one.

    Returns:
        the metrics by name; {} if no rows are held out.
    """
    if trainer.eval_dataset is None:
        return {}
    step = published_step(trainer)
    logs = [log for log in trainer.state.log_history if "eval_loss" in log and log["step"] == step > 0]
    with defer_signals():  # a checkpoint of this step is saved first if there is none
        metrics = logs[-1] if logs else trainer.evaluate()
    speed = ("_time", "runtime", "per_second", "num_tokens")
    return {key: value for key, value in metrics.items() if key.startswith("eval_") and not key.endswith(speed)}
