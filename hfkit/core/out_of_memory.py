"""A GPU without memory left, told in a line: with the keys that take less of it, as far as a verb has them."""

from contextlib import contextmanager

from hfkit.core.errors import HfkitError


@contextmanager
def explain_out_of_memory(config=None):
    """Says that the GPU is full, and which keys of a config could be otherwise.

    Raises:
        HfkitError: torch found no memory within.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; what has not imported it did not run out
            raise
        raise HfkitError(f"the GPU has no memory left: {', or '.join(memory_remedies(config))}") from error


def memory_remedies(config) -> list[str]:
    """What to set: rows at once, then what costs time, then numbers of half the size where nothing is trained."""

    def at_least(key: str, least: int) -> bool:
        return (getattr(config, key, None) or 0) >= least

    trains = hasattr(config, "per_device_train_batch_size")
    found = []
    if at_least("per_device_train_batch_size", 2):
        found.append("lower per_device_train_batch_size (and raise gradient_accumulation_steps)")
    if at_least("local_rollout_forward_batch_size", 2):
        found.append("lower local_rollout_forward_batch_size")
    if at_least("per_device_eval_batch_size", 2):
        found.append("lower per_device_eval_batch_size")
    if getattr(config, "merge_in_rollouts", False) and config.use_peft:
        found.append("set merge_in_rollouts to false")
    if getattr(config, "gradient_checkpointing", None) is False:  # unset, it is on where there is a GPU
        found.append("set gradient_checkpointing to true")
    if not trains and getattr(config, "dtype", None) == "float32":
        found.append("set dtype to bfloat16")
    if trains:
        return [*found, "ask `hfkit plan` what would fit"]
    return [*found, "leave it out (CUDA_VISIBLE_DEVICES= in front of the command)"]
