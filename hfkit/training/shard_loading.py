"""Loads the model of a stage in shards where DeepSpeed ZeRO-3 trains: no process holds a whole copy."""

from contextlib import contextmanager

from hfkit.core.launch import engine
from hfkit.training.arguments import trainer_arguments


@contextmanager
def loading_in_shards(config):
    """Let each process keep its part only of every weight that is loaded in the block, if ZeRO-3 trains this config.

    Transformers does so as long as trainer's arguments with the settings of DeepSpeed are alive.
    """
    arguments = trainer_arguments(config) if engine(config.extra) == "zero3" else None
    yield
    del arguments
