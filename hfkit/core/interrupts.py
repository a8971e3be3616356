"""Handles signals that ask a process to end: Ctrl-C (SIGINT), SIGTERM, and SIGUSR1, which Slurm can send early.

They raise an exception, or are deferred while work has to be saved (`defer_signals`). In a command, a thread
(`core/signal_watch.py`) ends a process that takes too long.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hfkit.core.console import is_main_process
from hfkit.core.signal_watch import REPEAT_SECONDS, end_now, watch_signals

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
"""Exit status by signal: SIGUSR1 announces a SIGTERM, so both have one status for a job script to check."""
DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)


class Interrupted(SystemExit):
    """SIGTERM or SIGUSR1 asked the process to end; uncaught, it exits with `EXIT_STATUS`."""

    def __init__(self, number: int):
        super().__init__(EXIT_STATUS[signal.Signals(number)])
        self.number = number


@dataclass
class Caught:
    """The signal state of a process: the first signal and its time; `agreed` means by all processes of a launch.

    Attributes:
        ignored: whether signals are ignored because the process ends for another reason.
    """

    ends_process: bool
    process: int = field(default_factory=os.getpid)
    number: int | None = None
    time: float = 0.0
    deferrals: int = 0
    agreed: bool = False
    ignored: bool = False


_caught: Caught | None = None
_share: Callable[[int], None] | None = None


@contextmanager
def catch_signals(ends_process: bool = False, report: Callable[[int], object] | None = None) -> Iterator[None]:
    """Let signals interrupt a block. Handlers other than Python's defaults stay; in a thread nothing changes.

    Args:
        ends_process: whether the process ends with the block; if it then hangs, it is killed with its children.
        report: called with the signal before that, from a thread.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        Interrupted: another signal.
    """
    global _caught
    if _caught is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _caught = Caught(ends_process)
    replaced = {number: signal.getsignal(number) for number in EXIT_STATUS}
    replaced = {number: handler for number, handler in replaced.items() if handler in DEFAULT_HANDLERS}
    stop_watching = None
    try:
        for number in replaced:
            signal.signal(number, _on_signal)
        if ends_process:
            sys.unraisablehook = _report_others
            stop_watching = watch_signals(_on_signal, EXIT_STATUS, is_deferred, _pass_on, report)
        yield
    finally:
        if not (ends_process and _caught.number):  # else the handlers and the thread stay until it ends
            if stop_watching:
                stop_watching()
            for number, handler in replaced.items():
                signal.signal(number, handler)
            _caught = None


def _report_others(unraisable) -> None:
    """Report an exception that Python discards, unless it is a signal's."""
    if not isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit)):
        sys.__unraisablehook__(unraisable)


def _on_signal(number: int, frame: object) -> None:
    caught = _caught
    if caught is None:
        return
    if caught.process != os.getpid():  # a worker, forked since: its parent ends it with SIGTERM
        if number == signal.SIGTERM:
            signal.alarm(1)  # its default handler kills, in case Python discards the exception
            raise SystemExit(EXIT_STATUS[signal.SIGTERM])  # a killed process would keep its locks
        return
    if caught.ignored:
        return
    now = time.monotonic()
    if caught.number is None:
        caught.number, caught.time = number, now
        _pass_on(number)
        if caught.deferrals and is_main_process():
            note = f"{signal.Signals(number).name}: saving first; a second signal ends the process at once\n"
            os.write(2, note.encode())  # `print` may be what the signal interrupts
    elif now - caught.time < REPEAT_SECONDS:
        return
    elif caught.ends_process:
        end_now(128 + number)
    else:
        caught.deferrals = 0
    if not caught.deferrals:
        raise interruption()


def _pass_on(number: int) -> None:
    if _share and not (_caught and _caught.ignored):
        _share(number)


def share_signals(share: Callable[[int], None] | None) -> None:
    """Set the function that passes the first signal of this process on to the launch, from any thread; None: none."""
    global _share
    _share = share


def ignore_signals() -> None:
    """Ignore signals from now on because the process ends for another reason."""
    if _caught is not None:
        _caught.ignored = True


def requested() -> int | None:
    """Return the signal that asked this process to end, or None."""
    return _caught.number if _caught else None


def interruption() -> BaseException:
    """Return the exception of the signal that was `requested`."""
    number = requested()
    return KeyboardInterrupt() if number in (None, signal.SIGINT) else Interrupted(number)


def is_interruption(error: BaseException) -> bool:
    """Return whether a signal caused an error, directly or not: it may also have killed a worker."""
    return isinstance(error, (KeyboardInterrupt, Interrupted)) or requested() is not None


def agree(number: int) -> None:
    """Record that all processes of a launch end because of a signal, even if another process received it."""
    if _caught is not None:
        _caught.number, _caught.agreed = _caught.number or number, True


def is_agreed() -> bool:
    """Return whether all processes of a launch know about the signal and end at the same step."""
    return bool(_caught and _caught.agreed)


def is_deferred() -> bool:
    """Return whether a signal is deferred to the end of a block."""
    return bool(_caught and _caught.deferrals)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer a signal to the end of a block; the block can poll `requested`.

    Raises:
        KeyboardInterrupt, Interrupted: at the end of the block.
    """
    if _caught is None:
        yield
        return
    _caught.deferrals += 1
    try:
        yield
    finally:
        _caught.deferrals = max(_caught.deferrals - 1, 0)
    if requested() and not _caught.deferrals:
        raise interruption()


@contextmanager
def droppable() -> Iterator[None]:
    """Leave a block within `defer_signals` as soon as a signal arrives, and continue after it; `requested` is set."""
    if _caught is None:
        yield
        return
    deferrals, _caught.deferrals = _caught.deferrals, 0
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        if not requested():
            raise
    finally:
        _caught.deferrals = deferrals


@contextmanager
def catch_interrupts() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets when it raises KeyboardInterrupt: it ends only the block, not the process.

    Python discards an exception raised in a destructor or in a callback from C, and with it the key press. So a long
    loop checks the event in each step. Outside the main thread, which alone gets signals, the event stays unset.
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
