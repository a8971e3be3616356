"""State that adapts during PPO and is saved with each checkpoint: the KL coefficient and the scale of the rewards."""

import math
from dataclasses import asdict, dataclass

import torch

from hfkit.rlhf.monitor import TrainingMonitor

MAX_ERROR = 0.2
"""The relative error of the KL is clipped to this in the update of its coefficient."""


@dataclass
class KLController:
    """The weight of the KL penalty; with a target it adapts after each update.

    error = clip(KL / target - 1, -0.2, 0.2); coef *= 1 + error * episodes / horizon. Ziegler et al. 2019
    (arXiv 1909.08593), section 2.2.
    """

    coef: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, episodes: int) -> None:
        """Adapt `coef` after an update on `episodes` responses with a mean KL of `kl` nats per response."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -MAX_ERROR), MAX_ERROR)
            self.coef *= 1 + error * episodes / self.horizon

    def slowness_warning(self, episodes: int) -> str | None:
        """Return a warning if `coef` could not even double during that many episodes, else None."""
        most = math.exp(MAX_ERROR * episodes / self.horizon)
        if self.target is None or most >= 2:
            return None
        return (
            f"kl_horizon={self.horizon} is long for {episodes} episodes: kl_coef can change at most by {most - 1:.0%}, "
            "so the KL may stay far from kl_target. Lower kl_horizon, for example to a fifth of the episodes"
        )

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]


@dataclass
class RewardNormalizer:
    """Mean and standard deviation of all rewards so far, by Chan et al. 1983 (parallel form of Welford's update).

    It may start from the mean and std that the reward stage measured, with the weight of `count` rewards.
    """

    mean: float = 0.0
    std: float = 1.0
    count: float = 0.0

    def update(self, rewards: torch.Tensor) -> None:
        """Include a batch of rewards (N,), gathered from all processes."""
        rewards = rewards.double()
        count, mean, variance = len(rewards), float(rewards.mean()), float(rewards.var(unbiased=False))
        total, delta = self.count + count, mean - self.mean
        summed = self.std**2 * self.count + variance * count + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.std, self.count = (summed / total) ** 0.5, total

    def __call__(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return (reward - mean) / std."""
        return (rewards - self.mean) / max(self.std, 1e-6)

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.mean, self.std, self.count = state["mean"], state["std"], state["count"]


@dataclass
class Controllers:
    """Everything that adapts; `normalizer` is None unless rewards are normalized."""

    kl: KLController
    monitor: TrainingMonitor
    normalizer: RewardNormalizer | None = None

    def state_dict(self) -> dict[str, dict]:
        return {name: controller.state_dict() for name, controller in vars(self).items() if controller is not None}

    def load_state_dict(self, states: dict[str, dict]) -> None:
        for name, state in states.items():
            getattr(self, name).load_state_dict(state)
