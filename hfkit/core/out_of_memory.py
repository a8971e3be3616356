"""Explains that the GPU is out of memory, and names the keys of a config that need less of it."""

from contextlib import contextmanager

from hfkit.core.errors import HfkitError


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

    def is_above_one(key: str) -> bool:
        return (getattr(config, key, None) or 0) > 1

    trains = hasattr(config, "per_device_train_batch_size")
    remedies = []
    if is_above_one("per_device_train_batch_size"):
        remedies.append("lower per_device_train_batch_size (and raise gradient_accumulation_steps)")
    if is_above_one("local_rollout_forward_batch_size"):
        remedies.append("lower local_rollout_forward_batch_size")
    if is_above_one("per_device_eval_batch_size"):
        remedies.append("lower per_device_eval_batch_size")
    if getattr(config, "merge_in_rollouts", False) and config.use_peft:
        remedies.append("set merge_in_rollouts to false")
    if getattr(config, "gradient_checkpointing", None) is False:  # None means true on a GPU
        remedies.append("set gradient_checkpointing to true")
    if not trains and getattr(config, "dtype", None) == "float32":
        remedies.append("set dtype to bfloat16")
    if trains:
        return [*remedies, "ask `hfkit plan` what fits"]
    return [*remedies, "run on the CPU (CUDA_VISIBLE_DEVICES= in front of the command)"]
