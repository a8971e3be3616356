"""The processes of a launch: a signal to one reaches all, and if one ends, the others end too."""

import json
import os
import signal
import socket
import sys
import time

import pytest
from events import Event, befall
from forks import run
from processes import start, wait
from quick import slow
from torch.distributed import PrefixStore

from hfkit.core import joining, peers, signal_watch
from hfkit.core.agreement import exchange
from hfkit.core.device import process_state, wait_for_everyone
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.interrupts import catch_signals
from hfkit.core.joining import current_launch, joined_launch, listen

STEP = f"{__name__}:step"


def step() -> None:
    """Be a process whose work the others need."""
    wait_for_everyone()


def work() -> None:
    """Be a process of a launch, for which others wait one second instead of several."""
    peers.GRACE = signal_watch.PATIENCE = 1.0
    try:
        with catch_signals(ends_process=True), joined_launch(ends_process=True):
            process_state({})
            step()
    except HfkitError as error:
        if not error.is_reported:
            print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


@pytest.mark.distributed
def test_processes_that_end_by_themselves_disturb_nobody():
    assert [rank.status for rank in wait(start(work))] == [0, 0]


class SlowStore(PrefixStore):
    """A store with high latency."""

    def add(self, *given):
        time.sleep(0.5)
        return super().add(*given)

    def get(self, *given):
        time.sleep(0.5)
        return super().get(*given)


def end_at_once(exchanges: bool) -> None:
    """Be a process of a launch that does nothing, or exchanges ranks; rank 1 is slow."""
    if os.environ["RANK"] == "1":
        joining.PrefixStore = SlowStore
    with joined_launch(ends_process=True):
        assert not exchanges or exchange(current_launch().rank) == [0, 1]


@pytest.mark.parametrize("exchanges", [slow(False), True])
def test_rank_0_ends_after_all_have_read_what_it_holds_for_them(exchanges):
    ranks = wait(start(end_at_once, exchanges))
    assert [rank.status for rank in ranks] == [0, 0], [rank.output for rank in ranks]


class SlowPeers(peers.Peers):
    """Processes that hear of each other with a delay."""

    def broadcast(self, *given):
        time.sleep(0.5)
        super().broadcast(*given)


def fail_together() -> None:
    """Be a process of a launch that finds the same error as the others."""
    joining.Peers = SlowPeers
    try:
        with joined_launch(ends_process=True):
            assert exchange(current_launch().rank) == [0, 1]
            raise ConfigError([Problem("seed", 0, "of the test")])
    except HfkitError as error:
        sys.exit(error.exit_status)


@pytest.mark.slow
def test_rank_0_ends_after_all_others_know_why():
    ranks = wait(start(fail_together))
    assert [rank.status for rank in ranks] == [2, 2], [rank.output for rank in ranks]


@pytest.mark.parametrize("dead", [pytest.param(0, marks=pytest.mark.distributed), 1])
def test_a_killed_process_ends_those_that_compute(dead):
    ended = befall(Event(STEP, signal.SIGKILL, ranks=[dead], hangs=True), work)
    other = 1 - dead
    assert (ended.statuses[dead], ended.statuses[other]) == (-signal.SIGKILL, 1)
    assert f"rank {dead} (" in ended.outputs[other] and "it was killed" in ended.outputs[other]


@pytest.mark.distributed
def test_rank_0_says_why_another_process_failed():
    ended = befall(Event(STEP, "hfkit.core.errors:HfkitError"), work)
    assert ended.statuses == [1, 1] and ended.outputs[1] == ""
    printed = ended.outputs[0]  # printed by its main thread, or by its watching thread if that is faster
    assert "rank 1 (" in printed and printed.endswith("ended: of the test\n")


def test_an_error_of_all_processes_is_printed_once():
    ended = befall(Event(STEP, "hfkit.core.errors:HfkitError", ranks=[0, 1]), work)
    assert ended.statuses == [1, 1]
    assert ended.output == "HfkitError: of the test\n"


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.distributed),
        pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.distributed),
    ],
)
def test_a_signal_to_one_process_reaches_the_other(number, status):
    ended = befall(Event(STEP, number, hangs=True), work)
    assert ended.statuses == [status, status]


def work_among_foreign_processes() -> None:
    """Be a process of a launch to which foreign processes connect."""
    with catch_signals(ends_process=True), joined_launch(ends_process=True):
        hub = json.loads(current_launch().store.get("hub"))
        peer = json.dumps(
            {"token": "guessed", "peer": hub["peer"] | {"rank": 5}, "signal": 15, "failed": "no"}
        ).encode()
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n7\n", b"{}\n", peer + b"\n", b"x" * 200_000):
            with socket.create_connection((hub["addresses"][0], hub["port"])) as stranger:
                stranger.sendall(sent)
        time.sleep(0.3)
        step()
        time.sleep(3)


@pytest.mark.distributed
def test_messages_of_foreign_processes_are_ignored():
    ended = befall(Event(STEP, signal.SIGKILL, ranks=[1], hangs=True), work_among_foreign_processes)
    assert ended.statuses == [1, -signal.SIGKILL] and "rank 1 (" in ended.outputs[0], ended.outputs
    assert "Traceback" not in ended.output and "rank 5" not in ended.output


@pytest.mark.parametrize("local", ["2", "1", None])
def test_a_launch_on_one_machine_accepts_only_local_connections(local, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local) if local else monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with listen(2) as server:
        assert (server.getsockname()[0] == "127.0.0.1") == (local == "2")


WITHOUT_KEEPIDLE = """
import socket
del socket.TCP_KEEPIDLE
from hfkit.core.channels import keep_alive
with socket.socket() as connection:
    keep_alive(connection)
    print(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
"""


def test_a_system_without_an_option_of_linux_keeps_connections_alive_too():
    ran = run(WITHOUT_KEEPIDLE)
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr
