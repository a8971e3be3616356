"""Records why a process failed for its launcher, which prints the reason at the end."""

import json
import os
import time
from pathlib import Path

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the path of the file from which `torchrun` and `accelerate launch` read the reason."""


def record_for_launcher(why: str, *, follows: bool = False) -> None:
    """Write an error to the file from which `torchrun` and `accelerate launch` read the cause of a failure.

    The format is that of `torch.distributed.elastic.multiprocessing.errors.ProcessFailure`, whose own writer adds a
    traceback. The launcher names the process with the earliest time; within the same second, the lowest rank.

    Args:
        follows: whether another process failed and recorded it first: the time is then one second later.
    """
    if file := os.environ.get(ERROR_FILE):
        message = {"message": why, "extraInfo": {"timestamp": str(int(time.time()) + follows)}}
        Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")
