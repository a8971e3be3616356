"""A callback for GRPO and RLOO: logs metrics under PPO's names, warns of bad signs, and stops training at `max_kl`."""

from typing import Any

import torch
from transformers import TrainerCallback

from hfkit.core.compat_logged import add_logged, logged_counts, logged_since, values_since

OF_REPLIES = (
    "objective/scores",
    "val/reply_length",
    "val/ended",
    "val/repetition",
    "frac_reward_zero_std",
    "kl",
)
"""Metrics that are measured when responses are sampled (`kl` only by RLOO). Every update that learns from these
responses logs them, also an update that samples nothing."""


class OnlineMetrics(TrainerCallback):
    """Logs `objective/kl` (nats per response) and `objective/entropy` (nats per token), and checks each update.

    `objective/kl` is TRL's `kl`, a mean over tokens, times the mean length of the responses: in GRPO of those that the
    update learns from, in RLOO of all sampled ones. TRL estimates it by k3 in GRPO and by k1 in RLOO
    (http://joschu.net/blog/kl-approx.html). Without a KL term (`beta: 0`) there is none.

    Args:
        trainer: an `OnlineTraining`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.before: dict[str, int] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.trainer.rollout_log.truncate(state.global_step)

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = logged_counts(self.trainer, "train")
        self.trainer.learned_from.clear()

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        found = logged_since(trainer, self.before)
        trainer.of_replies |= {name: found[name] for name in OF_REPLIES if name in found}
        metrics = {**trainer.of_replies, "objective/entropy": found["entropy"]}
        if "kl" in metrics:
            kl = metrics.pop("kl")
            metrics["objective/kl"] = self.kl_of_update() if trainer.kl_in_loss else kl * metrics["val/reply_length"]
        add_logged(trainer, {name: value for name, value in metrics.items() if name not in found})
        trainer.stopped = trainer.monitor.check(metrics, args, state, control) or trainer.stopped

    def kl_of_update(self) -> float:
        """Return the mean KL of the responses that the update learned from, in nats.

        TRL logs the mean over the tokens of each pass.
        """
        of_tokens = values_since(self.trainer, self.before, "kl")
        counts = self.trainer.accelerator.reduce(torch.stack(self.trainer.learned_from), "sum").tolist()
        nats = sum(kl * tokens for kl, (tokens, _) in zip(of_tokens, counts, strict=True))
        return nats / max(sum(replies for _, replies in counts), 1)
