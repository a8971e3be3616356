"""Joins the processes of a launch: validates the launcher's variables, and ends all processes if one ends."""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import count

import torch
from torch.distributed import PrefixStore, Store, rendezvous
from torch.distributed.elastic.utils.store import synchronize

from hfkit.core.channels import Channel, Peer, connect_to
from hfkit.core.console import say
from hfkit.core.error_file import record_for_launcher
from hfkit.core.errors import MISSING, ConfigError, HfkitError, Problem, reason
from hfkit.core.explain_errors import chain_of, explain_file_error
from hfkit.core.interrupts import is_interruption, share_signals
from hfkit.core.peers import Peers

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
"""The integers that a launcher sets, besides MASTER_ADDR."""
LOOPBACK = "127.0.0.1"
LAUNCHERS = "launch with `accelerate launch` or `torchrun`, which set it"
JOIN_SECONDS = 1800
"""Seconds to wait until all processes of a launch have started."""
NOTICE = 30
"""Seconds of waiting for other processes after which a line is printed."""
CONSEQUENCE = 2.0
"""Seconds to wait for news of the process whose end may have caused an error here."""


class PeerError(HfkitError):
    """A process of the launch failed, so this one ends; `is_reported`: another one prints the error."""

    is_of_peer = True

    def __init__(self, text: str, exit_status: int, is_reported: bool):
        super().__init__(text)
        self.exit_status, self.is_reported = exit_status, is_reported


@dataclass
class JoinedLaunch:
    """The launch of this process: its rank, the number of processes, and a shared key-value store.

    Attributes:
        timeout: seconds that a process waits for another one.
    """

    rank: int
    size: int
    store: Store
    peers: Peers
    timeout: float = JOIN_SECONDS


_launch: JoinedLaunch | None = None
_joined = count()


def current_launch() -> JoinedLaunch | None:
    """Return the launch within `joined_launch`; None in a single process."""
    return _launch


@contextmanager
def joined_launch(ends_process: bool = False) -> Iterator[None]:
    """Join the processes of this launch for a block: a signal to one reaches all, and the failure of one ends all.

    Args:
        ends_process: the process ends with the block, at the latest `peers.GRACE` seconds after another's failure.

    Raises:
        ConfigError: the variables that a launcher sets are missing or invalid.
        PeerError: another process failed, which replaces the error that the failure caused here; or this one failed,
            and rank 0 prints why.
    """
    global _launch
    if os.environ.get("WORLD_SIZE", "1") == "1" or _launch is not None:
        yield
        return
    if problems := launch_problems():
        raise ConfigError(problems, "the environment of the launch")
    _launch = launch = join()
    share_signals(launch.peers.pass_on)
    try:
        yield
    except Exception as error:
        if is_interruption(error):  # or caused by one
            raise
        if replaced := shared_error(launch, error):
            raise replaced from error
        raise
    finally:
        share_signals(None)
        _launch = None
        if not (ends_process and launch.peers.failed):  # else the peers' thread ends the process
            launch.peers.leave()


def launch_problems() -> list[Problem]:
    """Return what is missing or invalid in the variables that a launcher sets."""
    given = {name: os.environ.get(name) for name in (*VARIABLES, "MASTER_ADDR")}
    size = given["WORLD_SIZE"]
    remedy = f"needed, since WORLD_SIZE is {size}: {LAUNCHERS}, or unset WORLD_SIZE to train in one process"
    optional = ("LOCAL_WORLD_SIZE",)
    problems = [Problem(name, MISSING, remedy) for name, value in given.items() if not value and name not in optional]
    for name in VARIABLES:
        if (value := given[name]) and not value.isdigit():
            problems.append(Problem(name, value, f"expected an integer: {LAUNCHERS}"))
    if problems:
        return problems
    if int(given["RANK"] or 0) >= int(size or 1):
        problems.append(Problem("RANK", given["RANK"], f"expected 0 to {int(size or 1) - 1} (WORLD_SIZE: {size})"))
    has_store = torch.distributed.is_initialized() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if given["RANK"] == "0" and not has_store:
        port = int(given["MASTER_PORT"] or 0)
        try:
            socket.create_server(("", port)).close()
        except OSError:
            remedy = "another program on this machine uses this port: choose another one (--main_process_port)"
            problems.append(Problem("MASTER_PORT", port, remedy))
    return problems


def join() -> JoinedLaunch:
    """Wait for all processes of the launch, and connect each of them to rank 0.

    Raises:
        HfkitError: some have not started within `JOIN_SECONDS` seconds.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    waiting = f"waiting for all {size} processes of the launch to connect to {where}"
    timer = threading.Timer(NOTICE, say, [waiting])
    timer.daemon = True
    timer.start()
    try:
        store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
        store = PrefixStore(f"hfkit/{next(_joined)}", store)
        peers = connect(rank, size, store)
    except (RuntimeError, TimeoutError) as error:
        raise HfkitError(f"{waiting} failed: {reason(error)}") from error
    finally:
        timer.cancel()
    return JoinedLaunch(rank, size, store, peers)


def connect(rank: int, size: int, store: Store) -> Peers:
    """Return the connections of this process, once all processes have theirs.

    Raises:
        HfkitError: the network allows no connection to rank 0.
    """
    me = Peer(rank, socket.gethostname(), os.getpid())
    speaks = rank == 1 or os.environ["LOCAL_RANK"] == "0"
    if rank == 0:
        server = listen(size)
        token, port = secrets.token_hex(16), server.getsockname()[1]
        # torchrun may keep the store, and so MASTER_ADDR, on another machine
        addresses = [LOOPBACK] if is_of_one_machine(size) else [os.environ["MASTER_ADDR"], me.host]
        store.set("hub", json.dumps({"addresses": addresses, "port": port, "token": token, "peer": asdict(me)}))
        peers = Peers(me, None, server, token, speaks)
    else:
        hub = json.loads(store.get("hub"))
        try:
            channel = Channel(connect_to(hub["addresses"], hub["port"]), Peer(**hub["peer"]))
        except OSError as error:
            raise HfkitError(
                f"rank {rank} ({me.host}) cannot connect to rank 0 ({hub['peer']['host']}): {reason(error)}: open all "
                "ports between the machines of a launch"
            ) from error
        channel.send(token=hub["token"], peer=asdict(me))
        peers = Peers(me, channel, None, hub["token"], speaks)
    peers.start()
    synchronize(store, b"", rank, size, "connected/", JOIN_SECONDS)  # rank 0, which may host the store, returns last
    return peers


def listen(size: int) -> socket.socket:
    """Return a socket that accepts the connections of all processes: only local ones if all run on this machine.

    It accepts other machines over IPv4, and over IPv6 if available.
    """
    if is_of_one_machine(size):
        return socket.create_server((LOOPBACK, 0), backlog=size)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", 0), family=family, backlog=size, dualstack_ipv6=dual)


def is_of_one_machine(size: int) -> bool:
    """Return whether the launcher says that all processes of the launch run on this machine."""
    return os.environ.get("LOCAL_WORLD_SIZE") == str(size)


def shared_error(launch: JoinedLaunch, error: BaseException) -> HfkitError | None:
    """Return the error to raise for an error of this process, given those of the others; None: the error itself."""
    explained = error if isinstance(error, HfkitError) else explain_file_error(error)
    root = [*chain_of(error)][-1]
    if isinstance(root, RuntimeError) and not isinstance(root, torch.OutOfMemoryError):  # of a collective operation?
        launch.peers.has_failed.wait(CONSEQUENCE)
    why, status = str(explained or reason(error)), getattr(explained, "exit_status", 1)
    record_for_launcher(why)  # before the others are notified and record their own end
    failed = launch.peers.fail(why, status)
    if failed is None or failed.rank == launch.rank or (launch.rank == 0 and failed.why == why):
        return PeerError(why, status, is_reported=True) if failed and explained and launch.rank else None
    record_for_launcher(str(failed), follows=True)
    return PeerError(str(failed), failed.status, is_reported=not launch.peers.speaks_of(failed))
