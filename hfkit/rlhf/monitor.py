"""Health signs of a policy: each message says what happened, the likely cause, and the key to change."""

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from hfkit.core.console import warn

WINDOW = 10
"""Updates to average over: the first ones are compared with the latest ones."""

MUST_BE_FINITE = ("objective/kl", "objective/scores", "loss/policy_avg", "loss/value_avg", "policy/grad_norm")
"""Metrics that must be finite for training to continue, if they exist."""

WARNINGS = {
    "entropy": "entropy fell from {first[objective/entropy]:.2f} to {last[objective/entropy]:.2f} nats per token: "
    "responses lose diversity; raise {bonus}, or lower learning_rate",
    "length": "the reward rises while responses grow from {first[val/reply_length]:.0f} to "
    "{last[val/reply_length]:.0f} tokens: the reward model may prefer length; set missing_eos_penalty "
    "or a smaller response_length",
    "repetition": "the reward rises while {last[val/repetition]:.0%} of the three-token runs of the responses repeat: "
    "the policy is gaming its reward; raise {penalty}",
    "value": "the value model is worse than a constant (explained variance {last[val/explained_variance]:.2f}): raise "
    "vf_coef or value_learning_rate, or set value_warmup_steps",
    "truncated": "no response ended within response_length, and mask_truncated_completions leaves such responses out "
    "of the loss, so the update trained nothing: raise response_length, or set missing_eos_penalty instead",
    "equal": "all responses to each prompt got the same reward in the last {updates} updates, which teaches nothing: "
    "check the reward on rollouts.jsonl (sample_steps: 1), or raise num_generations or temperature",
    "constant": "all responses got the same reward in the last {updates} updates, which teaches nothing: check the "
    "reward on rollouts.jsonl (sample_steps: 1), and raise temperature if the responses are equal too",
}
STEADY = {"equal": ("frac_reward_zero_std", 1.0), "constant": ("objective/scores_std", 0.0)}
"""Signs of a metric that has the same value in `WINDOW` updates in a row."""


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the rows that have it: updates that warm up the value model lack some."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}


@dataclass
class TrainingMonitor:
    """Checks the metrics of each update, warns of each sign once, and stops above `max_kl` nats per response.

    It also stops after `WINDOW` updates in a row that trained nothing, because all of their responses are truncated.

    Args:
        penalty: the key that keeps the policy close to its reference; `bonus`: those that keep its entropy up.
        masks_truncated: whether the loss leaves out responses that have not ended.
    """

    max_kl: float
    penalty: str = "kl_coef"
    bonus: str = "kl_coef or entropy_coef"
    masks_truncated: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)

    def check(self, metrics: dict[str, float], args, state, control) -> str | None:
        """Warn of new signs; if training must stop, make the loop log, save and stop.

        Args:
            args, state, control: of the trainer, as its callbacks get them.

        Returns:
            why training stops, for the record; None if it continues.
        """
        for warning in self.new_warnings(metrics):
            warn(f"step {state.global_step}: {warning}")
        reason = self.stop_reason(metrics)
        if reason is None:
            return None
        control.should_log = control.should_training_stop = True
        control.should_save = args.save_strategy != "no"
        return f"stopped at step {state.global_step}: {reason}"

    def stop_reason(self, metrics: dict[str, float]) -> str | None:
        """Return why training must stop now, or None."""
        kl = metrics.get("objective/kl", 0.0)
        not_finite = [name for name in MUST_BE_FINITE if not math.isfinite(metrics.get(name, 0.0))]
        if not_finite:
            return (
                f"{', '.join(not_finite)} is no longer finite: lower learning_rate, train in float32, or set "
                "attn_implementation: eager"
            )
        if kl > self.max_kl:
            return (
                f"KL {kl:.2f} exceeds max_kl={self.max_kl}. The policy may be gaming its reward: raise "
                f"{self.penalty} or lower learning_rate"
            )
        if self.masks_truncated and self.are_last("val/ended", 0.0):
            return f"in {WINDOW} updates in a row, {WARNINGS['truncated']}"
        return None

    def are_last(self, name: str, value: float, count: int = WINDOW) -> bool:
        """Return whether a metric had this value in each of the last `count` updates."""
        found = [row.get(name) for row in self.history[-count:]]
        return found == [value] * count

    def new_warnings(self, metrics: dict[str, float]) -> list[str]:
        """Add the metrics of an update; return new warnings, from the first `WINDOW` updates and the last ones."""
        self.history.append(metrics)
        if len(self.history) > 2 * WINDOW:
            del self.history[WINDOW]
        first, last = mean_metrics(self.history[:WINDOW]), mean_metrics(self.history[-WINDOW:])
        found = signs_between(first, last) if len(self.history) == 2 * WINDOW else set()
        found |= {"truncated"} if self.masks_truncated and self.are_last("val/ended", 0.0, 1) else set()
        found |= {sign for sign, (name, value) in STEADY.items() if self.are_last(name, value)}
        keys = {"penalty": self.penalty, "bonus": self.bonus, "updates": WINDOW}
        texts = {sign: text.format(first=first, last=last, **keys) for sign, text in WARNINGS.items() if sign in found}
        new = [text for sign, text in texts.items() if sign not in self.reported]
        self.reported |= found
        return new

    def state_dict(self) -> dict[str, list]:
        return {"history": self.history, "reported": sorted(self.reported)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.reported = state["history"], set(state["reported"])


def signs_between(first: dict[str, float], last: dict[str, float]) -> set[str]:
    """Return the names of the signs that appear between two sets of mean metrics."""
    better = last["objective/scores"] > first["objective/scores"]
    signs = {
        "entropy": last["objective/entropy"] < 0.2 * first["objective/entropy"],
        "length": better and last["val/reply_length"] > 2 * first["val/reply_length"],
        "repetition": better and last["val/repetition"] > first["val/repetition"] + 0.25,
        "value": last.get("val/explained_variance", 0.0) < 0,
    }
    return {sign for sign, is_there in signs.items() if is_there}


def repetition_share(reply: list[int]) -> float:
    """Return the share of three-token runs of a response that occurred earlier in it."""
    runs = [tuple(reply[start : start + 3]) for start in range(len(reply) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
