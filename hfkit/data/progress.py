"""Shows progress bars only if there is something to wait for."""

from contextlib import contextmanager

import datasets

# Fewer rows are tokenized faster than a progress bar can be read.
QUIET_ROWS = 20_000


@contextmanager
def progress_bars(rows: int):
    """Show the progress bars of `datasets` only if there are many rows."""
    quiet = rows < QUIET_ROWS and not datasets.are_progress_bars_disabled()
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            datasets.enable_progress_bars()
