"""The config fields of optimizers and trainers that stages share, named as in Transformers' `TrainingArguments`.

This module imports no heavy library: `hfkit sft --help` must not wait for torch.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hfkit.config.fields import Fields, arg
from hfkit.config.learning_rates import SFT_RATES, LearningRates

METRIC_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
"""The learning rate schedules that follow the metric of each evaluation, rather than the steps."""


@dataclass(kw_only=True)
class MicroBatchFields:
    """How the rows of a step are cut into forward passes; arguments of the trainers of PPO, GRPO and RLOO too."""

    max_tokens_per_micro_batch: int | None = arg(
        None,
        help="maximum tokens per forward pass; none: per_device_train_batch_size rows of the maximum length, or the "
        "fastest number that fits a GPU",
    )
    micro_batches_by_length: bool = arg(
        True, help="group the rows of a step into forward passes of similar length: the same training with less padding"
    )


@dataclass(kw_only=True)
class OptimizerFields(MicroBatchFields, Fields):
    """Batch sizes, optimizer and precision, named as in `TrainingArguments`."""

    per_device_train_batch_size: int = arg(8, help="rows per forward pass on each device")
    per_device_eval_batch_size: int = arg(8, help="rows per forward pass of an evaluation on each device")
    gradient_accumulation_steps: int = arg(1, help="forward passes per optimizer step")
    num_train_epochs: float = arg(1.0, help="number of passes over the training rows")
    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {SFT_RATES}")
    lr_scheduler_type: str = arg("linear", help="learning rate schedule: linear, cosine, constant, ...")
    warmup_steps: float = arg(0, help="optimizer steps of linear warm-up; below 1: share of all steps")
    weight_decay: float = arg(0.0, help="weight decay of AdamW")
    max_grad_norm: float = arg(1.0, help="gradients are clipped to this norm")
    optim: str | None = arg(None, help="optimizer; none: adamw_torch_fused on a GPU, else adamw_torch")
    bf16: bool | None = arg(None, help="bf16 autocast; none: on if the GPU supports it", means={"auto": None})
    gradient_checkpointing: bool | None = arg(
        None,
        help="recompute activations to save memory; none: only if the GPU's free memory is too small otherwise",
        means={"auto": None},
    )
    report_to: str | list[str] = arg(
        "none",
        help="experiment trackers: tensorboard, wandb, trackio, ..., or a list of them; none: no tracker",
        means={None: "none"},
    )
    run_name: str | None = arg(None, help="name of the run in the experiment tracker; none: chosen by the tracker")

    learning_rates: ClassVar[LearningRates] = SFT_RATES

    def __post_init__(self):
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = self.learning_rates.of(getattr(self, "use_peft", False)).default


@dataclass(kw_only=True)
class TrainerFields(OptimizerFields):
    """Adds the length of the run, logging, evaluation and checkpoints, named as in `TrainingArguments`."""

    max_steps: int = arg(-1, help="number of optimizer steps; overrides num_train_epochs if above 0")
    logging_steps: float = arg(10, help="steps between logs to metrics.jsonl; below 1: share of all steps")
    eval_strategy: Literal["no", "steps", "epoch"] = arg(
        "no",
        help="when to evaluate: no: never, steps: every eval_steps, epoch: after each epoch",
        means={False: "no"},  # YAML reads a bare no as false
    )
    eval_steps: float | None = arg(None, help="steps between evaluations; below 1: share of all; none: logging_steps")
    save_strategy: Literal["no", "steps", "epoch"] = arg(
        "steps",
        help="when to save a checkpoint: no: never, steps: every save_steps, epoch: after each epoch",
        means={False: "no"},
        remedy="to publish the best checkpoint, set load_best_model_at_end: true and save_strategy as eval_strategy",
    )
    save_steps: float = arg(500, help="steps between checkpoints; below 1: share of all steps")
    save_total_limit: int | None = arg(2, help="maximum number of checkpoints to keep; none: all")
    load_best_model_at_end: bool = arg(False, help="output the best checkpoint and its metrics, not the last weights")
    early_stopping_patience: int | None = arg(None, help="stop after N evaluations without improvement; none: never")
    resume_from_checkpoint: bool = arg(
        False,
        help="resume from the last complete checkpoint in output_dir",
        means={None: False, **dict.fromkeys(("true", "last", "latest", "auto"), True)},
        remedy="true resumes from the last complete checkpoint in output_dir; to start another run from the weights of "
        "a checkpoint, name it in model_name_or_path",
    )
