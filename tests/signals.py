"""Runs commands as real processes, sends signals at any time, and finds leftovers: for tests of interruptions.

`start` begins a verb in its own session; `interrupt` sends a signal, waits, and returns an `Ended`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
MARK = "HFKIT_TEST_PROCESS"
"""An environment variable of a command and all its processes, even in other sessions."""


@dataclass
class Command:
    """A running command: its process, its log, and the number that identifies its processes."""

    process: subprocess.Popen
    log: Path
    mark: str

    @property
    def output(self) -> str:
        """The output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def alive(self) -> list[psutil.Process]:
        """The processes of the command that still run, including itself."""
        return [one for one in psutil.process_iter() if environment_of(one).get(MARK) == self.mark]


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        status: exit status; negative for the signal that killed it.
        seconds: from the signal to the end.
        sent: after how many seconds the signal was sent; None if the command had already ended.
        output: all that it printed.
        orphans: command lines of its processes that outlived it by a second; they are killed.
        leftovers: files with temporary names in the watched folders: `.NAME`, `*.tmp`, `*.incomplete`, `*.lock`.
    """

    status: int
    seconds: float
    sent: float | None
    output: str
    orphans: list[str] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)


def start(argv: Sequence[object], folder: Path, launcher: Sequence[str] = (), **environment: str) -> Command:
    """Start `hfkit ARGV` in its own session.

    Args:
        folder: the current folder of the command, which gets its log.
        launcher: replaces `python -m hfkit.cli`, such as a `torchrun`.
        environment: variables to add.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    log = folder / f"command-{mark}.log"
    command = [*(launcher or (sys.executable, "-m", "hfkit.cli")), *map(str, argv)]
    env = os.environ | {"PYTHONPATH": str(ROOT), MARK: mark} | environment
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    return Command(process, log, mark)


def interrupt(
    command: Command,
    number: int = signal.SIGTERM,
    *,
    when: float | Callable[[], bool] = 0.0,
    to_all: bool = False,
    again: float | None = None,
    timeout: float = 120.0,
    watched: Sequence[Path] = (),
) -> Ended:
    """Send a signal to a command that `start` began, and wait for its end.

    Args:
        when: seconds from now, or a condition; a command that has already ended gets no signal.
        to_all: send it to the process group, like a terminal, `timeout` and Slurm; else only to the first process.
        again: seconds after which the signal is sent a second time.
        timeout: seconds from the signal on, after which it is killed (status -9).
        watched: folders to search for leftovers.
    """
    process, started = command.process, time.monotonic()
    reached = when if callable(when) else lambda: time.monotonic() - started >= when
    while process.poll() is None and not reached():
        time.sleep(0.002)
    sent = time.monotonic() if process.poll() is None else None
    if sent:
        send(process, number, to_all)
    if sent and again is not None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(again)
        if process.poll() is None:
            send(process, number, to_all)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = time.monotonic()
    return Ended(
        status=process.returncode,
        seconds=ended - (sent or ended),
        sent=sent and sent - started,
        output=command.output,
        orphans=end_orphans(command.alive),
        leftovers=[path for folder in watched for path in leftovers_in(folder)],
    )


def at_random(seed: int, seconds: float) -> float:
    """Return a time before `seconds` for `interrupt(..., when=...)`, determined by the seed."""
    return random.Random(seed).uniform(0.0, seconds)


def send(process: subprocess.Popen, number: int, to_all: bool) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number) if to_all else process.send_signal(number)


def end_orphans(find: Callable[[], list[psutil.Process]], seconds: float = 1.0) -> list[str]:
    """Kill the processes of a command that outlive it by `seconds`, and return their command lines."""
    deadline = time.monotonic() + seconds
    while (alive := find()) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = []
    for one in alive:
        with suppress(psutil.Error):
            found.append(f"{one.pid} {' '.join(one.cmdline())}")
            one.kill()
    return found


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Return the environment of a process; {} if it has ended or belongs to another user."""
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except (psutil.Error, OSError):
        return {}


def leftovers_in(folder: Path) -> list[Path]:
    """Return the files and folders with temporary names below a folder."""
    names = (".*", "*.tmp", "*.incomplete", "*.lock")
    return sorted({path for pattern in names for path in folder.rglob(pattern)})
