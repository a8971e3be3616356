"""Callbacks of the training loop: the metrics file, the progress line, samples of the model's text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import CONFIG_NAME
from trl.trainer.utils import RepeatSampler

from hfkit.core.console import printable_line, say
from hfkit.core.device import keep_random_state
from hfkit.core.files import write_text
from hfkit.core.kept_logs import SCHEDULE_METRIC, KeepsLogs, kept_logs
from hfkit.core.progress import ProgressLine
from hfkit.models.saving import processor_files
from hfkit.records.metrics_file import METRICS
from hfkit.training.sharding import is_sharded

# The metrics of a log that the progress line shows.
TRAIN_METRICS = {
    "loss": "loss {:.3f}",
    "accuracy": "accuracy {:.2f}",
    "objective/scores": "reward {:.2f}",
    "objective/kl": "KL {:.2f}",
    "learning_rate": "lr {:.1e}",
}
EVAL_METRICS = {
    "eval_loss": "loss {:.4f}",
    "eval_perplexity": "perplexity {:.2f}",
    "eval_bits_per_byte": "bits per byte {:.4f}",
    "eval_accuracy": "accuracy {:.3f}",
    "eval_margin": "margin {:.3f}",
    "eval_reward": "reward {:.3f}",
    "eval_kl": "KL {:.2f}",
}


class Resume(TrainerCallback):
    """Lets a resumed run log, evaluate and save by the steps in its config, and log what an uninterrupted run logs.

    Trainer would take the steps from the checkpoint and lose metrics that were not logged yet. A learning rate schedule
    that follows a metric takes the step of an evaluation that `finish_evaluation` has made.
    """

    def __init__(self, trainer: KeepsLogs):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        state.compute_steps(args, state.max_steps)
        if kept := kept_logs(state):
            self.trainer.set_pending_logs(kept)
        if SCHEDULE_METRIC in kept:
            lr_scheduler.step(kept[SCHEDULE_METRIC])


class KeepProcessor(TrainerCallback):
    """Copies the files with which a multimodal model reads images into its checkpoints, for AutoProcessor."""

    files: list[Path] | None = None

    def on_save(self, args, state, control, model=None, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and (folder / CONFIG_NAME).is_file():  # PPO's are no models
            if self.files is None:
                self.files = processor_files(model)
            for file in self.files:
                shutil.copyfile(file, folder / file.name)


class BeforeFirstStep(TrainerCallback):
    """Calls a function when training begins, since a sharded model cannot be called earlier."""

    def __init__(self, function: Callable[[], None]):
        self.function = function

    def on_train_begin(self, args, state, control, **kwargs):
        self.function()


class MetricsFile(TrainerCallback):
    """Appends each log to `metrics.jsonl`, one JSON object per line with its step.

    A resumed run first truncates the file to its checkpoint, so the file equals that of an uninterrupted run.
    """

    def __init__(self, folder: Path):
        self.path = folder / METRICS

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.rewrite(state.log_history)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(self.line(state.global_step, logs))

    def rewrite(self, history: list[dict]) -> None:
        """Replace the file with these logs."""
        write_text(self.path, "".join(self.line(logs["step"], logs) for logs in history))

    @staticmethod
    def line(step: int, logs: dict) -> str:
        """Return a log as a line; "" for the final summary, which is in the record and wrong after resuming."""
        if "train_loss" in logs:
            return ""
        numbers = {key: value for key, value in logs.items() if isinstance(value, (int, float))}
        return json.dumps({"step": step, **numbers}) + "\n"


class TrainingProgress(TrainerCallback):
    """Shows the progress of a training loop with its logged metrics, and evaluations after the loop too."""

    def __init__(self, name: str):
        self.name = name
        self.line: ProgressLine | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.line = ProgressLine(self.name, state.max_steps, state.global_step, unit="step")

    def on_step_end(self, args, state, control, **kwargs):
        if self.line:
            self.line.bar.update(self.line.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        evaluated = ", ".join(text.format(logs[key]) for key, text in EVAL_METRICS.items() if key in logs)
        if evaluated:
            show = self.line.bar.console.print if self.line else say
            show(f"{self.name}: step {state.global_step}, held out: {evaluated}")
        if not self.line:
            return
        metrics = ", ".join(text.format(logs[key]) for key, text in TRAIN_METRICS.items() if key in logs)
        if metrics:
            self.line.report(state.global_step, metrics)

    def on_train_end(self, args, state, control, **kwargs):
        if self.line:
            self.line.close()
        self.line = None


class GroupedOrder(TrainerCallback):
    """Makes the order that a sampler draws depend on the seed and the epoch alone.

    With `train_sampling_strategy: group_by_length`, Transformers draws the order from torch's global generator, whose
    state differs between processes with different dropout masks, and after resuming within an epoch: processes would
    split different orders and skip rows. The generator for the prompts of TRL's GRPO continues from epoch to epoch: a
    run that resumes in the second epoch would start with the order of the first.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        sampler = getattr(train_dataloader, "batch_sampler", None)
        while sampler is not None and not isinstance(sampler, (LengthGroupedSampler, RepeatSampler)):
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        if sampler is not None:
            seed = args.seed if args.data_seed is None else args.data_seed
            sampler.generator = torch.Generator().manual_seed(seed + int(state.epoch))


class Samples(TrainerCallback):
    """Prints how the model continues a few prompts at each evaluation, then restores the random state of training.

    The main process generates, or all processes together if they hold parts of the model.
    """

    def __init__(self, tokenizer, prompts: list[str], length: int):
        self.tokenizer, self.prompts, self.length = tokenizer, prompts, length

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        together = is_sharded(model)
        if not self.prompts or not (state.is_world_process_zero or together):
            return
        was_training, pad = model.training, self.tokenizer.pad_token_id
        model.eval()
        autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=args.bf16)  # as in training
        with keep_random_state(model.device), torch.no_grad(), autocast:
            for prompt in self.prompts:
                # a document begins after the end of another
                start = self.tokenizer(prompt).input_ids or [self.tokenizer.eos_token_id]
                inputs = torch.tensor([start], device=model.device)
                options = {"max_new_tokens": self.length, "do_sample": False, "pad_token_id": pad}
                ids = model.generate(inputs, attention_mask=torch.ones_like(inputs), **options, synced_gpus=together)
                say("  > " + printable_line(self.tokenizer.decode(ids[0], skip_special_tokens=True)))
        model.train(was_training)
