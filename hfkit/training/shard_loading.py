"""Loads the model of a stage in shards for DeepSpeed ZeRO-3, so that no process holds a whole copy."""

from contextlib import contextmanager

from hfkit.core.launch import engine
from hfkit.training.arguments import trainer_arguments


@contextmanager
def loading_in_shards(config):
    """Make each process keep only its part of the weights loaded in the block, if ZeRO-3 trains this config.

    Transformers does so as long as training arguments with DeepSpeed's settings exist.
    """
    arguments = trainer_arguments(config) if engine(config.extra) == "zero3" else None
    yield
    del arguments
