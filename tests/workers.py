"""Starts the workers of pytest-xdist as forks of one process that has collected the tests.

Otherwise each worker spends half a minute of CPU time on imports and the rewriting of assertions, and half of that on
the servers of `forks.py`. The workers share HF_HOME and these servers.
"""

import atexit
import gc
import os
import select
import shlex
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import forks
import pytest
from conftest import remove_own

KEPT = pytest.StashKey[socket.socket]()
CLIENT = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as worker:
    worker.connect(sys.argv[1])
    socket.send_fds(worker, [b"?"], [0, 1, 2])
    os.close(0)
    os.close(1)
    worker.recv(1)
"""
"""What runs where xdist starts a worker: it gives its streams to a fork, and ends with it."""


def pytest_collection_finish():
    """Collect garbage again, once all modules are imported."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs) -> None:
    """Start the process that collects the tests, and have the workers forked from it."""
    if os.environ.get("HFKIT_TEST_GPU") == "1" or not all(spec.popen and not spec.python for spec in specs):
        return
    folder = Path(tempfile.mkdtemp(prefix="hfkit-workers-"))
    atexit.register(remove_own, folder, os.getpid())
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as asked, theirs:
        asked.bind(str(folder / "socket"))
        asked.listen()
        if os.fork() == 0:
            ours.close()
            serve(config.invocation_params.args, asked, theirs)
    config.stash[KEPT] = ours  # the process ends when this socket is closed
    (folder / "worker.py").write_text(CLIENT)
    command = shlex.join([sys.executable, "-S", str(folder / "worker.py"), str(folder / "socket")])
    for spec in specs:
        spec.python = command


def serve(argv: list[str], asked: socket.socket, controller: socket.socket) -> NoReturn:
    """Collect the tests, then be a worker in a fork for each process that connects, until the controller ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.devnull, "r+") as nothing:
        for stream in (0, 1):
            os.dup2(nothing.fileno(), stream)
    forks.server(forks.HFKIT)
    pytest.main([*map(str, argv), "-n0", "--collect-only"])
    gc.freeze()
    workers = []
    while controller not in select.select([asked, controller], [], [])[0]:
        connection, _ = asked.accept()
        _, streams, *_ = socket.recv_fds(connection, 1, 3)
        workers.append(os.fork())
        if workers[-1] == 0:
            asked.close()
            controller.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            forks.take_over(streams)
            forks.run_to_the_end("import sys; exec(eval(sys.stdin.readline()))")
        for stream in streams:
            os.close(stream)
        connection.close()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    os._exit(0)
