"""Two processes of one launch, forked from a server that has the libraries loaded; they meet on 127.0.0.1."""

import gc
import multiprocessing
import os
import socket

import torch

WORLD = 2
PRELOAD = [
    "hfkit.rlhf.trainer",
    "hfkit.rlhf.policy_evaluation",
    "hfkit.stages.ppo",
    "hfkit.data.forms",
    "hfkit.training.arguments",
]


def in_rank(rank: int, world: int, port: int, target, arguments: tuple) -> None:
    """What a launcher sets, then the work."""
    gc.freeze()  # as in conftest.py
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()} | {"MASTER_ADDR": "127.0.0.1"})
    os.environ.update(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo")
    target(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(target, *arguments) -> None:
    """Runs `target` in two processes, and waits."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = free_port()
    ranks = [context.Process(target=in_rank, args=(rank, WORLD, port, target, arguments)) for rank in range(WORLD)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * WORLD
