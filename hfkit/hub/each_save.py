"""A callback that pushes the weights of each checkpoint."""

from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from hfkit.hub.stage import push_so_far


class PushEachSave(TrainerCallback):
    """Pushes the weights of each checkpoint to the run's repository on the Hub."""

    def __init__(self, run, save: Callable[[Path], None]):
        self.run, self.save = run, save

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            push_so_far(self.run, self.save, state.global_step)
