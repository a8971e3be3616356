"""Explains errors of a full disk, a GPU out of memory and a trainer in one line, with what to change."""

import errno
import shutil
from contextlib import contextmanager
from pathlib import Path

from hfkit.core.errors import HfkitError, reason

FULL = 1 << 16  # bytes free, below which a failure means that the disk is full


@contextmanager
def explain_errors(folder: Path, config=None):
    """Turn errors of a block that the user can act on into one line; other errors pass.

    Args:
        folder: where the block writes.
        config: names the keys to change; its `extra` fields go to the trainer unchecked.

    Raises:
        HfkitError: the disk or the GPU is full, or anything was raised while the config has `extra` fields.
    """
    extra = getattr(config, "extra", {})
    try:
        with explain_out_of_memory(config):
            yield
    except HfkitError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(folder).free < FULL:
            raise HfkitError(f"no space left in {folder} ({reason(error)}): free some, then start again") from error
        if extra:
            remedy = f"check {', '.join(extra)}, which the trainer gets as they are (HFKIT_DEBUG=1 shows the traceback)"
            raise HfkitError(f"the trainer failed: {reason(error)}; {remedy}") from error
        raise


@contextmanager
def explain_out_of_memory(config=None):
    """Turn PyTorch's error into one line with the keys to change.

    Raises:
        HfkitError: PyTorch ran out of GPU memory in the block.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # by its name: this module does not import torch
            raise
        raise HfkitError(f"the GPU has no memory left: {', or '.join(memory_remedies(config))}") from error


def memory_remedies(config) -> list[str]:
    """Return what to change, cheapest first: batch sizes, then what costs time, then the dtype if nothing is trained.

    A key that the config lacks, or that cannot be lowered, is not named.
    """
    trains = hasattr(config, "per_device_train_batch_size")
    batch_sizes = {
        "per_device_train_batch_size": "lower per_device_train_batch_size (and raise gradient_accumulation_steps)",
        "local_rollout_forward_batch_size": "lower local_rollout_forward_batch_size",
        "per_device_eval_batch_size": "lower per_device_eval_batch_size",
    }
    remedies = [remedy for key, remedy in batch_sizes.items() if (getattr(config, key, None) or 0) > 1]
    if getattr(config, "merge_in_rollouts", False) and config.use_peft:
        remedies.append("set merge_in_rollouts to false")
    if getattr(config, "gradient_checkpointing", None) is False:  # None means true on a GPU
        remedies.append("set gradient_checkpointing to true")
    if not trains and getattr(config, "dtype", None) == "float32":
        remedies.append("set dtype to bfloat16")
    if trains:
        return [*remedies, "ask `hfkit plan` what fits"]
    return [*remedies, "run on the CPU (CUDA_VISIBLE_DEVICES= in front of the command)"]
