"""A callback of GRPO and RLOO: metrics by the names of PPO, health signs, and the stop at `max_kl`."""

from typing import Any

from transformers import TrainerCallback

from hfkit.core.compat import logged_counts
from hfkit.core.compat_online import add_logged, logged_since
from hfkit.core.console import warn

WATCHED = ("objective/scores", "objective/kl", "objective/entropy", "val/reply_length", "val/repetition")
"""What the monitor reads; of an update that samples nothing, the last known ones."""


class OnlineMetrics(TrainerCallback):
    """Watches the updates of a trainer and logs `objective/kl` (nats per reply) and `objective/entropy` (per token).

    Args:
        trainer: an `OnlineTraining`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.before: dict[str, int] = {}
        self.known: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.trainer.rollout_log.truncate(state.global_step)

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = logged_counts(self.trainer, "train")

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        found = logged_since(trainer, self.before)
        length = found.get("val/reply_length", self.known.get("val/reply_length", 0.0))
        named = {"objective/entropy": found["entropy"]}
        if "kl" in found:  # the mean over all tokens: times the tokens of a reply, it is that of a reply
            named["objective/kl"] = found["kl"] * length
        add_logged(trainer, named)
        self.known |= {name: value for name, value in (found | named).items() if name in WATCHED}
        for warning in trainer.monitor.new_warnings(dict(self.known)):
            warn(f"step {state.global_step}: {warning}")
        if reason := trainer.monitor.stop_reason(self.known):
            trainer.stopped = f"stopped at step {state.global_step}: {reason}"
            control.should_log = control.should_training_stop = True
            control.should_save = args.save_strategy != "no"
