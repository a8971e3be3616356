"""What runs beside a training loop: the metrics file, the progress line, samples of what the model writes."""

import json
import time
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback

from hfkit.core.console import printable, say
from hfkit.core.device import random_state_kept
from hfkit.core.files import write_text
from hfkit.records.metrics_file import METRICS

# What the progress line shows, where it is logged.
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
}


class MetricsFile(TrainerCallback):
    """Appends each log to `metrics.jsonl`, one JSON object a line with its step.

    A resumed run first goes back to the lines that its checkpoint knows, so the file is that of an uninterrupted run.
    """

    def __init__(self, folder: Path):
        self.path = folder / METRICS

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.begin(state.log_history)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            with self.path.open("a") as stream:
                stream.write(self.line(state.global_step, logs))

    def begin(self, history: list[dict]) -> None:
        """Makes the file that of these logs, whatever it was."""
        write_text(self.path, "".join(self.line(logs["step"], logs) for logs in history))

    @staticmethod
    def line(step: int, logs: dict) -> str:
        """A log as a line; the summary at the end has none: it is for the record, and wrong after a resumption."""
        if "train_loss" in logs:
            return ""
        figures = {key: value for key, value in logs.items() if isinstance(value, (int, float))}
        return json.dumps({"step": step, **figures}) + "\n"


class ProgressLine(TrainerCallback):
    """A bar with the time left; where the output is no terminal, a line each ten seconds."""

    def __init__(self, name: str):
        self.name = name
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(TextColumn("{task.description}"), *columns, TextColumn("{task.fields[figures]}"))
        self.task = self.bar.add_task(self.name, total=state.max_steps, completed=state.global_step, figures="")
        self.first, self.begun, self.last = state.global_step, time.time(), time.time()
        if self.bar.console.is_terminal:
            self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not self.bar:
            return
        evaluated = [text.format(logs[key]) for key, text in EVAL_METRICS.items() if key in logs]
        if evaluated:
            self.bar.console.print(f"{self.name}: step {state.global_step}, held out: {', '.join(evaluated)}")
        figures = ", ".join(text.format(logs[key]) for key, text in TRAIN_METRICS.items() if key in logs)
        if not figures:
            return
        self.bar.update(self.task, figures=figures)
        done, now = state.global_step - self.first, time.time()
        if not self.bar.console.is_terminal and done and now - self.last > 10:
            left = (now - self.begun) / done * (state.max_steps - state.global_step)
            say(f"{self.name}: step {state.global_step}/{state.max_steps}, {figures}, {left:.0f} s left")
            self.last = now

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar and self.bar.console.is_terminal:
            self.bar.stop()
        self.bar = None


class Samples(TrainerCallback):
    """Prints how the model goes on from a few prompts at each evaluation; the training's randomness is untouched."""

    def __init__(self, tokenizer, prompts: list[str], length: int):
        self.tokenizer, self.prompts, self.length = tokenizer, prompts, length

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        if not self.prompts or not state.is_world_process_zero:
            return
        was_training = model.training
        model.eval()
        with random_state_kept(model.device), torch.no_grad():
            for prompt in self.prompts:
                inputs = self.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
                ids = model.generate(
                    **inputs,
                    max_new_tokens=self.length,
                    do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
                text = self.tokenizer.decode(ids[0], skip_special_tokens=True)
                say("  > " + printable(text.replace("\n", " ")))
        model.train(was_training)
