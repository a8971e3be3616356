"""Signals that ask a process to end: no signal is lost, and no process is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from hfkit.core.interrupts import (
    EXIT_STATUS,
    Interrupted,
    catch_interrupts,
    catch_signals,
    defer_signals,
    droppable,
    is_interruption,
    requested,
)


class Discards:
    """Python discards exceptions raised here."""

    def __init__(self, number: int = signal.SIGINT):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        for _ in range(1_000):  # the handler runs between two instructions of the main thread
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_key_press_during_a_destructor_is_seen():
    with catch_interrupts() as pressed:
        Discards()
        assert pressed.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_during_a_destructor_is_seen():
    with catch_signals():
        Discards(signal.SIGTERM)
        assert requested() == signal.SIGTERM
        assert is_interruption(ValueError())  # any later error counts
    assert requested() is None


def test_it_raises_as_usual_and_restores_the_handler():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), catch_interrupts() as pressed:
        signal.raise_signal(signal.SIGINT)
    assert pressed.is_set()
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_gets_no_signals():
    seen = []

    def work():
        with catch_interrupts() as pressed, catch_signals(), defer_signals():
            seen.append((pressed.is_set(), requested()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, None)]


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted), (signal.SIGUSR1, Interrupted)],
)
def test_a_signal_raises_and_the_handlers_are_restored(number, error):
    before = {one: signal.getsignal(one) for one in EXIT_STATUS}
    with pytest.raises(error) as raised, catch_signals(), catch_signals():
        signal.raise_signal(number)
    assert getattr(raised.value, "code", 130) == EXIT_STATUS[number]
    assert {one: signal.getsignal(one) for one in EXIT_STATUS} == before


def test_handlers_of_python_code_stay(monkeypatch):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with catch_signals():
            signal.raise_signal(signal.SIGTERM)
            assert (came, requested()) == ([signal.SIGTERM], None)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_deferred_signal_waits_for_the_end_of_the_block(capfd):
    reached = []
    with pytest.raises(Interrupted), catch_signals(), defer_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # a repetition within a second, as `timeout` sends it
        reached.append("end")
    assert reached == ["end"]
    assert capfd.readouterr().err == "SIGTERM: saving first; a second signal ends the process at once\n"


def test_a_droppable_part_of_it_is_left_at_once():
    reached = []
    with pytest.raises(Interrupted), catch_signals(), defer_signals():
        with droppable():
            signal.raise_signal(signal.SIGUSR1)
            reached.append("not here")
        reached.append(requested())
    assert reached == [signal.SIGUSR1]


BUSY = """
import contextlib, hashlib, subprocess, sys, time
from hfkit.core import interrupts, signal_watch

signal_watch.PATIENCE = 0.2
with interrupts.catch_signals(ends_process=True, report=lambda number: print("killed after", number, flush=True)):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], **quiet)
    with interrupts.defer_signals() if sys.argv[1] == "saving" else contextlib.nullcontext():
        print(child.pid, flush=True)
        if sys.argv[1] == "busy":  # no handler of Python runs meanwhile
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
        time.sleep(60)
"""


def cpu_seconds(pid: int) -> float:
    return psutil.Process(pid).cpu_times().user


@pytest.mark.parametrize(
    ("doing", "waits", "status"),
    [
        ("sleeping", [], 143),
        ("busy", [], 143),
        ("saving", [1.1], 138),  # seconds to the second signal
    ],
)
def test_a_process_ends_with_its_children(doing, waits, status):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, doing], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        child = int(process.stdout.readline())
        begun = cpu_seconds(process.pid)
        while doing == "busy" and cpu_seconds(process.pid) < begun + 0.2:  # wait until the process is in the call
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        for seconds in waits:
            time.sleep(seconds)
            assert process.poll() is None
            process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=10) == status
        assert b"Traceback" not in process.stderr.read()
        reported = f"killed after {signal.SIGUSR1:d}\n" if doing == "busy" else ""
        assert process.stdout.read().decode() == reported
    if doing == "sleeping":  # it ended by itself, so its child may live on
        os.kill(child, signal.SIGKILL)
    else:
        for _ in range(100):
            if not os.path.exists(f"/proc/{child}") or open(f"/proc/{child}/stat").read().split()[2] == "Z":
                break
            time.sleep(0.02)
        else:
            pytest.fail("the child is still there")
