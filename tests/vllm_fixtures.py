"""A double of vLLM in the process of the tests, and servers of it."""

import socket
import sys
from pathlib import Path

import pytest
from network import LOCAL_PORTS
from vllm_server import DOUBLE, RunningServer

from hfkit.models.vllm_engine import colocated
from hfkit.models.vllm_server import client_of


def forget_vllm() -> None:
    """Let the next test import vLLM again, or find none."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == "vllm" or name.startswith("trl.generation"):
            del sys.modules[name]
    client_of.cache_clear()
    colocated.cache_clear()


@pytest.fixture
def vllm_double(monkeypatch):
    """Make the double importable as vLLM, also for modules of TRL that were imported before."""
    forget_vllm()
    monkeypatch.syspath_prepend(str(DOUBLE))
    yield
    forget_vllm()


@pytest.fixture
def free_port():
    """free_port() -> a free port of 127.0.0.1 that the test may connect to."""

    def find() -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            LOCAL_PORTS.add(port := free.getsockname()[1])
        return port

    yield find
    LOCAL_PORTS.clear()


@pytest.fixture
def serve_vllm(vllm_double, free_port, tmp_path):
    """serve_vllm(folder of a model, **options) -> a running `RunningServer`."""
    servers = []

    def start(model: Path, **options) -> RunningServer:
        servers.append(RunningServer(model, tmp_path, **{"port": free_port(), **options}))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
