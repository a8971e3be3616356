"""Causes a signal or an error in a process of a launch at a certain call, and returns how all processes end."""

import ctypes
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from processes import TOO_LONG, be_command, start, wait


@dataclass(frozen=True)
class Event:
    """An event in some processes of a launch.

    Attributes:
        at: the function, as `module:name`, whose call triggers it.
        do: the number of the signal that the process gets, or the name of the exception that is raised.
        call: the number of the call that triggers it.
        ranks: the ranks that it affects.
        hangs: whether the other processes `hang` there.
        sleeps: seconds that the call takes in all processes, unless a signal interrupts it.
    """

    at: str
    do: int | str = signal.SIGKILL
    call: int = 1
    ranks: Sequence[int] = (1,)
    hangs: bool = False
    sleeps: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a launch ended after an event: exit statuses and outputs of its processes."""

    statuses: list[int]
    outputs: list[str]

    @property
    def output(self) -> str:
        """The output of all processes."""
        return "".join(self.outputs)


def befall(event: Event, *work, **options) -> Outcome:
    """Run `work`, a function and its arguments, in a launch with the event, after which all processes must end.

    See `processes.start` for the options.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = wait(start(work_with_event, event, Path(folder) / "happened", *work, **options))
        ended = Outcome([one.status for one in ranks], [one.output for one in ranks])
        assert (Path(folder) / "happened").exists(), ended
    assert TOO_LONG not in ended.output, ended.output
    return ended


def befall_command(event: Event, *argv: object, **options) -> Outcome:
    """Run `hfkit ARGV` in a launch with an event."""
    return befall(event, be_command, [*map(str, argv)], **options)


def work_with_event(event: Event, happened: Path, target, *arguments) -> None:
    """Run `target` in a process of a launch, with the event if it affects this rank."""
    owner, _, name = event.at.replace(":", ".:").rpartition(".")
    owner, name = resolve_name(owner.replace(".:", ":").rstrip(":")), name.removeprefix(":")
    own, calls = getattr(owner, name), []

    def befallen(*given, **options):
        calls.append(name)
        if len(calls) == event.call and int(os.environ["RANK"]) in event.ranks:
            happened.touch()
            if isinstance(event.do, str):
                raise resolve_name(event.do)("of the test")
            os.kill(os.getpid(), event.do)
        elif len(calls) == event.call and event.hangs:
            hang()
        if len(calls) == event.call:
            time.sleep(event.sleeps)
        return own(*given, **options)

    setattr(owner, name, befallen)
    target(*arguments)


def hang() -> None:
    """Wait forever for a lock in C, like a collective operation with a dead process: no signal ends it."""
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    for _ in range(2):
        library.pthread_mutex_lock(lock)
