"""Ctrl-C that is never lost."""

import os
import signal
import threading

import pytest

from hfkit.core.interrupts import catch_interrupts


class Discards:
    """Python discards what is raised in here."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1_000):  # the handler runs between two instructions of the main thread
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_key_press_during_a_destructor_is_seen():
    with catch_interrupts() as pressed:
        Discards()
        assert pressed.is_set()


def test_it_raises_as_usual_and_leaves_the_handler_that_was_there():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), catch_interrupts() as pressed:
        signal.raise_signal(signal.SIGINT)
    assert pressed.is_set()
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_gets_no_signals():
    seen = []

    def work():
        with catch_interrupts() as pressed:
            seen.append(pressed.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
