"""Shows the progress of a loop and the time left: a bar on a terminal, a line every ten seconds in a log."""

import time
from collections.abc import Iterator, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hfkit.core.console import say

INTERVAL = 10  # minimum seconds between two lines of a log


class ProgressLine:
    """The progress of a loop of `total` steps, `done` of which are already done; logs call a step `unit`."""

    def __init__(self, name: str, total: int, done: int = 0, unit: str = ""):
        self.name, self.total, self.first, self.unit = name, total, done, unit
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        title = TextColumn("{task.description}", markup=False)  # a name may hold brackets
        self.bar = Progress(title, *columns, TextColumn("{task.fields[metrics]}"))
        self.task = self.bar.add_task(name, total=total, completed=done, metrics="")
        self.is_terminal = self.bar.console.is_terminal
        self.started = self.reported = time.time()
        if self.is_terminal:
            self.bar.start()

    def report(self, done: int, metrics: str = "") -> None:
        """Update the bar and its metrics; without a terminal, print a line if the last one is old enough."""
        self.bar.update(self.task, completed=done, metrics=metrics)
        now = time.time()
        if not self.is_terminal and self.first < done and now - self.reported > INTERVAL:
            left = (now - self.started) / (done - self.first) * (self.total - done)
            parts = (f"{self.unit} {done}/{self.total}".strip(), metrics, f"{left:.0f} s left")
            say(f"{self.name}: {', '.join(filter(None, parts))}")
            self.reported = now

    def close(self) -> None:
        """Remove the bar."""
        if self.is_terminal:
            self.bar.stop()


def track_progress(batches: Sequence, name: str, batch_size: int, total: int) -> Iterator:
    """Yield the batches and show progress in items.

    Args:
        batch_size: items in a batch.
        total: number of items, including those done in an earlier run.
    """
    done = max(total - len(batches) * batch_size, 0)
    if done and batches:
        say(f"{name}: resuming at {done} of {total}")
    line = ProgressLine(name, total, done)
    try:
        for number, batch in enumerate(batches, 1):
            yield batch
            line.report(min(done + number * batch_size, total))
    finally:
        line.close()
