"""Compares what the processes of a launch start with: a difference is an error that names the rank and the key."""

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

from torch.distributed import DistStoreError
from torch.distributed.elastic.utils.store import synchronize

from hfkit.core.errors import MISSING, ConfigError, HfkitError, Problem
from hfkit.core.joining import current_launch
from hfkit.core.launch import node_count
from hfkit.core.masking import without_secrets
from hfkit.core.temporary import temporary_path

SEEN = 15.0
"""Seconds after which every machine sees a new file of a network drive."""
_exchanges = count()


def exchange(own: object) -> list:
    """Return what each process of the launch passes to this call, by rank; every process must call it.

    Raises:
        HfkitError: a process did not call it within `JoinedLaunch.timeout` seconds.
    """
    launch = current_launch()
    if launch is None:
        return [own]
    prefix, given = f"{next(_exchanges)}/", json.dumps(own, default=str).encode()
    try:
        found = synchronize(launch.store, given, launch.rank, launch.size, prefix, launch.timeout)
    except DistStoreError as error:
        missing = [rank for rank in range(launch.size) if not launch.store.check([f"{prefix}{rank}"])]
        raise HfkitError(
            f"rank {', '.join(map(str, missing))} did not answer within {launch.timeout} seconds: check its log, or "
            "raise ddp_timeout"
        ) from error
    return [*map(json.loads, found)]


def require_same(facts: Mapping[str, object], remedy: str) -> None:
    """Compare facts with those of the other processes; every process must call this.

    Args:
        facts: JSON values.
        remedy: how to fix a difference.

    Raises:
        ConfigError: in every process, with each fact that differs from rank 0.
    """
    (_, expected), *others = exchange([socket.gethostname(), without_secrets(dict(facts))])
    problems = []
    for rank, (host, found) in enumerate(others, 1):
        for key in sorted({*expected, *found}):
            value, first = (given.get(key, MISSING) for given in (found, expected))
            if value != first:
                problems.append(Problem(key, value, f"on rank {rank} ({host}), but {first!r} on rank 0: {remedy}"))
    if problems:
        raise ConfigError(problems, "the processes of this launch")


def require_shared(folder: Path) -> None:
    """Check that the processes of all machines see a folder that rank 0 writes into; every process must call this.

    Raises:
        ConfigError: in every process, with the machines that do not see the folder.
    """
    launch = current_launch()
    if launch is None or node_count() == 1:
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()] if launch.rank == 0 else []
    if launch.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        temporary_path(folder / "shared").touch()
    file = folder / exchange(temporary_path(folder / "shared").name)[0]
    machines = exchange([socket.gethostname(), sees(file)])
    if launch.rank == 0:
        file.unlink()
        for path in created:
            with suppress(OSError):  # another process has written into it
                path.rmdir()
    if blind := sorted({host for host, has_seen in machines if not has_seen}):
        remedy = (
            f"rank 0 ({machines[0][0]}) writes into it, but {', '.join(blind)} cannot see its files: choose a folder "
            "that all machines share, since each process reads checkpoints and models from it"
        )
        raise ConfigError([Problem("output_dir", str(folder), remedy)])


def sees(file: Path) -> bool:
    """Return whether a file exists; wait, since a network drive may show it some seconds later."""
    limit = time.monotonic() + SEEN
    while not file.exists():
        if time.monotonic() > limit:
            return False
        with suppress(OSError):
            os.listdir(file.parent)  # makes NFS ask its server
        time.sleep(0.2)
    return True
