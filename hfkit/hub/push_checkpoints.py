"""Push the weights of each checkpoint to the Hub while a stage trains (`hub_strategy: every_save`)."""

from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from hfkit.hub.push_to_hub import push_checkpoint


class PushCheckpointCallback(TrainerCallback):
    """Pushes the weights of each checkpoint to the run's repository.

    Args:
        run: the run in progress.
        save: writes model and tokenizer into a folder.
    """

    def __init__(self, run, save: Callable[[Path], None]):
        self.run, self.save = run, save

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            push_checkpoint(self.run, self.save, state.global_step)
