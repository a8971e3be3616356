"""Starts two processes of one launch, forked from a server with loaded libraries; they connect on 127.0.0.1."""

import faulthandler
import gc
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from forks import HFKIT, PAUSE, Fork, server
from sharding_on_cpus import ENGINES, ON_CPUS, shard_on_cpus, use_gloo_alone

from hfkit.cli import main

WORLD = 2
ON_GPU = os.environ.get("HFKIT_TEST_GPU") == "1"
LIMIT = 240 if ON_GPU else 120
"""Seconds that a launch may take; on a GPU, kernels may have to be compiled first. A process that takes longer prints
its traceback and is killed."""
TOO_LONG = "Timeout ("
"""What such a process prints."""
CALL = """
import pickle, sys
given = sys.stdin.buffer
sys.path[:] = pickle.load(given)
target, *arguments = pickle.load(given)
target(*arguments)
"""


def begin(target, *arguments, output=None) -> Fork:
    """Start a function in a process; its output goes to a file, by default to that of this process."""
    with tempfile.TemporaryFile() as given:
        pickle.dump(sys.path, given)
        pickle.dump((target, *arguments), given)
        given.seek(0)
        return Fork(CALL, env=server(HFKIT).env, level=HFKIT, streams=[given, output or 1, output or 2])


def in_rank(rank: int, world: int, port: int, engine: str | None, environment: Mapping, *work) -> None:
    """Set what a launcher sets, then do the work."""
    gc.freeze()  # as in conftest.py
    faulthandler.enable()
    faulthandler.dump_traceback_later(LIMIT - 5, exit=True)
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()} | {"MASTER_ADDR": "127.0.0.1"})
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    os.environ.update(ENGINES[engine] if engine else {})
    if not ON_GPU:
        os.environ.update(ON_CPUS if engine else {"ACCELERATE_USE_CPU": "true"})
    if engine and not ON_GPU:
        shard_on_cpus()
        use_gloo_alone()
    os.environ.update(environment)
    target, *arguments = work
    target(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass(frozen=True)
class Rank:
    """A process of a launch, and its output file, which is deleted with this object."""

    process: Fork
    printed: Any

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.poll()

    @property
    def output(self) -> str:
        """The output so far."""
        return Path(self.printed.name).read_text(encoding="utf-8", errors="replace")


def start(
    target, *arguments, engine: str | None = None, environment: Mapping | None = None, world: int = WORLD
) -> list[Rank]:
    """Start `target` in each process of a launch.

    Args:
        engine: of `ENGINES`; None: DDP.
        environment: more variables.
    """
    port, ranks = free_port(), []
    for rank in range(world):
        printed = tempfile.NamedTemporaryFile(mode="a", prefix="hfkit-rank-")
        work = (rank, world, port, engine, environment or {}, target, *arguments)
        ranks.append(Rank(begin(in_rank, *work, output=printed), printed))
    return ranks


def wait(ranks: list[Rank]) -> list[Rank]:
    """Wait for the processes of a launch; kill those that take too long."""
    latest = time.monotonic() + LIMIT
    for rank in ranks:
        while rank.status is None and time.monotonic() < latest:
            time.sleep(PAUSE)
        rank.process.kill()
    return ranks


def launch(target, *arguments, **options) -> list[Rank]:
    """Run `target` in two processes, each of which must succeed. See `start` for the options."""
    ranks = wait(start(target, *arguments, **options))
    outputs = "".join(f"\nrank {index} (exit status {one.status}):\n{one.output}" for index, one in enumerate(ranks))
    assert [rank.status for rank in ranks] == [0] * len(ranks), outputs
    return ranks


def launch_command(*argv: object, **options) -> list[Rank]:
    """Run `hfkit ARGV` in two processes, and return how each ended. See `start` for the options."""
    return wait(start(be_command, [*map(str, argv)], **options))


def be_command(argv: list[str]) -> None:
    """Run the command like a process of a launcher."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = argv
    sys.exit(main())
