"""Hands the reason why a process ends to its launcher, which shows it at the end."""

import json
import os
import time
from pathlib import Path

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""The variable with the file from which `torchrun` and `accelerate launch` read the reason."""


def record_for_launcher(why: str, *, follows: bool = False) -> None:
    """Write an error where `torchrun`, and `accelerate launch`, read the cause that they print at the end.

    The format is that of `torch.distributed.elastic.multiprocessing.errors.ProcessFailure`, whose own writer adds a
    traceback. The launcher names the process with the earliest time, of those with the same second the lowest rank.

    Args:
        follows: whether another process failed first, which has recorded it: the time is then the next second.
    """
    if file := os.environ.get(ERROR_FILE):
        message = {"message": why, "extraInfo": {"timestamp": str(int(time.time()) + follows)}}
        Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")
