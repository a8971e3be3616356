"""From a stage's config to the trainer's own, and through its training loop."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from hfkit.config.fields import HubFields
from hfkit.core.device import has_bf16, process_state
from hfkit.core.errors import HfkitError
from hfkit.hub.push_to_hub import PushCheckpointCallback
from hfkit.training.callbacks import MetricsFile, ProgressLine
from hfkit.training.run import Run
from hfkit.training.tracking import track

# The trainer's own pushes go on behind one's back, and fail silently; the tokenizer has its pad token by now.
NOT_THE_TRAINERS = {field.name for field in fields(HubFields)} | {"resume_from_checkpoint", "pad_token"}


def trainer_arguments(config, **set_here):
    """An instance of the trainer's config class: the fields that it shares with ours, then `extra`, then `set_here`.

    `bf16`, `gradient_checkpointing` and `optim` are resolved here, since their defaults depend on the device.
    """
    kind = process_state(config.extra).device.type  # first of all: checks of a config come before all else
    config_class = type(config).trainer_config_class()
    shared = {field.name for field in fields(config_class)} & {field.name for field in fields(config)}
    values = {name: getattr(config, name) for name in shared - NOT_THE_TRAINERS}
    if values.get("bf16") is None:
        values["bf16"] = has_bf16() and not config.extra.get("fp16", False)
    if values.get("gradient_checkpointing") is None:
        values["gradient_checkpointing"] = kind == "cuda"
    if values.get("optim") is None:  # fused: no copies of what is trained, and no pages fetched for a few adapters
        values["optim"] = "adamw_torch_fused" if kind == "cuda" else "adamw_torch"
    if getattr(config, "use_peft", False):  # every adapter is used: the walk that looks for others costs each step
        values["ddp_find_unused_parameters"] = False
    if values.get("run_name") is None:  # a tracker's runs are told apart by it, and one that is resumed is found by it
        values["run_name"] = "-".join(Path(config.output_dir).resolve().parts[-2:])
    if kind == "cpu":
        values["use_cpu"] = True  # else bf16 is refused, which a CPU computes in well enough
    return on_one_gpu(config_class(**{**values, "disable_tqdm": True, **config.extra, **set_here}))


def on_one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """Keeps the trainer from nn.DataParallel, which it takes to where several GPUs are visible to one process.

    It trains on wrong gradients over quantized bases, and breaks trl's losses and bf16; processes of their own do not.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # there is no public way; Trainer does the same for models on several GPUs
    return arguments


def own_callbacks(trainer: Trainer, run: Run, save: Callable[[Path], None], *more: TrainerCallback) -> None:
    """The kit's callbacks in place of the trainer's printing; its trackers get the run's record.

    Args:
        save: writes what the run has come to so far into a folder.
    """
    trainer.remove_callback(PrinterCallback)
    # TRL's card, written with each checkpoint, would take the place of a README.md that is there
    trainer.create_model_card = lambda *args, **kwargs: None
    if run.config.push_to_hub and run.config.hub_strategy == "every_save":
        trainer.add_callback(PushCheckpointCallback(run, save))
    for callback in (MetricsFile(run.folder), ProgressLine(run.stage), *more):
        trainer.add_callback(callback)
    track(trainer, run.record, run.closing)


@contextmanager
def keep_trainable_dtype(model: PreTrainedModel | PeftModel):
    """Around a trl trainer's constructor: the weights to train leave it in the dtype that they went into it.

    Over a quantized base trl casts them to bf16, in which the small updates of a run's end are lost; without autocast
    they would also meet fp32 activations in the first step.
    """
    kept = {parameter: parameter.data for parameter in model.parameters() if parameter.requires_grad}
    yield
    for parameter, data in kept.items():
        if parameter.dtype != data.dtype:
            parameter.data = data


def train(trainer: Trainer, run: Run) -> dict:
    """Trains, from the last complete checkpoint if the run has one.

    Returns:
        facts for the record: steps, tokens, train_seconds, train_loss.

    Raises:
        HfkitError: nothing was learnt: no step, or weights that are not numbers.
    """
    started = time.time()
    checkpoint = str(run.checkpoint) if run.checkpoint else None
    before = TrainerState.load_from_json(f"{checkpoint}/trainer_state.json") if checkpoint else TrainerState()
    mean_loss = None
    if before.max_steps and before.global_step >= before.max_steps:
        # Stopped between the last step and the publication: trainer.train() would take one step more.
        trainer._load_from_checkpoint(checkpoint)
        trainer.state = before
        if trainer.is_world_process_zero():
            MetricsFile(run.folder).begin(before.log_history)
    else:
        mean_loss = trainer.train(resume_from_checkpoint=checkpoint).training_loss
    if trainer.state.global_step == 0:
        raise HfkitError("no step was taken: the rows do not fill one batch (dataloader_drop_last, batch size)")
    if not all(parameter.isfinite().all() for parameter in trainer.model.parameters() if parameter.requires_grad):
        raise HfkitError(
            "the weights are no longer finite numbers: lower learning_rate, train with bf16 or float32, or set "
            "attn_implementation: eager"
        )
    logged = [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]
    return {
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        "train_seconds": round(time.time() - started, 2),
        "train_loss": mean_logged_loss(logged) if logged else mean_loss,
    }


def mean_logged_loss(logged: list[tuple[int, float]]) -> float:
    """Mean of a run's loss from its logs (step, mean since the log before), those before a resumption among them."""
    steps = [0, *(step for step, _ in logged)]
    total = sum((step - before) * loss for before, (step, loss) in zip(steps, logged, strict=False))
    return total / steps[-1]


def held_out_metrics(trainer: Trainer) -> dict[str, float]:
    """The held-out figures of the trained model: those of the last step's evaluation, or of one made now."""
    last = [log for log in trainer.state.log_history if "eval_loss" in log]
    if last and last[-1]["step"] == trainer.state.global_step > 0:
        metrics = last[-1]
    else:
        metrics = trainer.evaluate()
    speed = ("_time", "runtime", "per_second", "num_tokens")
    return {key: value for key, value in metrics.items() if key.startswith("eval_") and not key.endswith(speed)}
