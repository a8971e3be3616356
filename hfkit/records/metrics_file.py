"""`metrics.jsonl`: the logs of a run, one JSON object a line."""

import json
from pathlib import Path

from transformers import TrainerCallback

from hfkit.core.files import write_text

METRICS = "metrics.jsonl"


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


def read_metrics(folder: Path) -> list[dict]:
    """The lines of `metrics.jsonl`; a last line that was cut off by a crash is left out."""
    rows = []
    path = Path(folder) / METRICS
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
