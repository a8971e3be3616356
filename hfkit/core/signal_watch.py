"""Watches signals from a thread, and kills a process that does not end by itself after one.

Python runs a handler only between two instructions of the main thread, which may spend minutes in Rust or C, or wait
for a lock that a dead worker holds.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil

REPEAT_SECONDS = 1.0
"""Seconds within which signals count as one: `timeout` and launchers send theirs twice."""
PATIENCE = 10.0
"""Seconds that a process has to end by itself."""
REPORT_SECONDS = 1.0
"""Seconds that a process has to report that it is killed."""


def watch_signals(
    handler: Callable,
    statuses: Mapping[signal.Signals, int],
    is_deferred: Callable[[], bool],
    pass_on: Callable[[int], None],
    report: Callable[[int], object] | None = None,
):
    """Watch the signals of this process from a thread; return a function that stops it. Call it in the main thread.

    A second signal kills the process and its children at once, with exit status 128 + signal. The first one kills it
    after `PATIENCE` seconds, with its status from `statuses`, unless it `is_deferred`.

    Args:
        handler: only the signals that it handles count.
        statuses: exit status by signal.
        pass_on: called with the first signal, even while the main thread is in C code.
        report: called with the first signal before it kills the process, which then says nothing itself.
    """
    end, start = os.pipe()
    os.set_blocking(start, False)
    before = signal.set_wakeup_fd(start, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a worker's signals are its own

    def watch() -> None:
        first, began, deadline = None, 0.0, 0.0
        while True:
            ready, _, _ = select.select([end], [], [], None if first is None else 0.2)
            now = time.monotonic()
            for number in os.read(end, 64) if ready else b"":
                if number == 0:
                    return
                if signal.getsignal(number) is not handler:
                    continue
                if first is None:
                    first, began, deadline = number, now, now + PATIENCE
                    pass_on(number)
                elif now - began > REPEAT_SECONDS:
                    end_now(128 + number)
            if is_deferred():
                deadline = now + PATIENCE
            elif first is not None and now > deadline:
                if report is not None:
                    reporting = threading.Thread(target=report, args=(first,), daemon=True)
                    reporting.start()
                    reporting.join(REPORT_SECONDS)  # nobody may read the output
                end_now(statuses[signal.Signals(first)])

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()

    def stop() -> None:
        signal.set_wakeup_fd(before)
        os.write(start, b"\0")
        thread.join()
        os.close(start)
        os.close(end)

    return stop


def end_now(status: int) -> None:
    """End this process and its children, without any cleanup."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(status)
