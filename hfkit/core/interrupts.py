"""Ctrl-C that is never lost: a flag beside the exception, for loops to look at."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def catch_interrupts() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets, beside raising KeyboardInterrupt as usual.

    Python discards an exception that is raised in a destructor or in a callback from C, and with it the key press. So
    a long loop looks at the event in each of its steps. In another thread than the main one, which gets no signals, the
    event stays unset.
    """
    pressed = threading.Event()

    def on_interrupt(number: int, frame: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
