"""How far a loop is and how long it will take, on a terminal and in a log."""

import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import track

from hfkit.core.console import say

SILENT = 10
"""Seconds between two lines where the output is no terminal."""


def progress(batches: Sequence, name: str, size: int, total: int) -> Iterator:
    """The batches, one after the other: a bar with the time left, or a line each ten seconds.

    Args:
        size: items in a batch.
        total: items in all, those that are done already among them.
    """
    done = max(total - len(batches) * size, 0)
    if done and batches:
        say(f"{name}: going on after {done} of {total}")
    if Console().is_terminal:
        yield from track(batches, name)
        return
    begun = last = time.time()
    for number, batch in enumerate(batches):
        yield batch
        now = time.time()
        if now - last > SILENT and number + 1 < len(batches):
            left = (now - begun) / (number + 1) * (len(batches) - number - 1)
            say(f"{name}: {min(done + (number + 1) * size, total)} of {total}, {left:.0f} s left")
            last = now
