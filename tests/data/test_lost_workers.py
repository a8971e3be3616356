"""A killed process that prepared rows is reported with the key for the number of processes."""

import os
import signal

import pytest
from datasets import Dataset

from hfkit.core.errors import HfkitError
from hfkit.data.caching import map_rows


def killed(row: dict) -> dict:
    if row["n"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return row


def failing(row: dict) -> dict:
    raise RuntimeError("one of the subprocesses")


def test_a_worker_that_the_kernel_kills_is_named_with_the_remedy():
    with pytest.raises(HfkitError, match=r"dataset_num_proc: 2 -> .* was killed, .* out of memory: lower it"):
        map_rows(Dataset.from_dict({"n": [*range(4)]}), killed, num_proc=2)


@pytest.mark.parametrize("processes", [None, 2])
def test_an_error_of_the_function_is_not_changed(processes):
    with pytest.raises(RuntimeError, match="one of the subprocesses"):
        map_rows(Dataset.from_dict({"n": [*range(4)]}), failing, num_proc=processes)
