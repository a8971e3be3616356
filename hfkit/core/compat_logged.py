"""The metrics that TRL's trainers collect until they log them, through private parts of them; see also `compat.py`.

`tests/rlhf/test_online_trainer.py` and `tests/training/test_dpo_trainer.py` fail when upstream moves one.
"""

from math import isnan
from typing import Any


def logged_counts(trainer, mode: str) -> dict[str, int]:
    """Return how many values of each metric a trainer of TRL has collected since its last log; {} for other trainers.

    trl 1.12.0: `compute_loss` collects them, and no method returns them.
    """
    return {name: len(values) for name, values in getattr(trainer, "_metrics", {}).get(mode, {}).items()}


EXTREMES = {"min": min, "max": max}
"""How to combine a metric of several parts, by the first or last word of its name; all others are averaged."""


def weigh_logged(
    trainer, mode: str, before: dict[str, int], weights: list[float], others: dict[str, list[float]] | None = None
) -> None:
    """Replace the metrics that a trainer of TRL collected for parts of a batch with those of the whole batch.

    trl 1.12.0: `log` takes the plain mean of what `compute_loss` has collected.

    Args:
        before: `logged_counts` before the parts.
        weights: one per part.
        others: by metric name, weights that replace `weights`.
    """
    for name, values in getattr(trainer, "_metrics", {}).get(mode, {}).items():
        start = before.get(name, 0)
        parts, shares = values[start:], (others or {}).get(name, weights)
        if len(parts) == len(shares):
            pick = EXTREMES.get(name.partition("_")[0]) or EXTREMES.get(name.rpartition("_")[2])
            mean = sum(value * share for value, share in zip(parts, shares, strict=True)) / (sum(shares) or 1.0)
            known = [value for value in parts if not isnan(value)] or parts  # TRL's extremes of no rows are NaN
            values[start:] = [pick(known) if pick else mean]


def pop_logged(trainer, mode: str, name: str) -> float:
    """Remove a metric from those that a trainer of TRL logs next; return its last value.

    trl 1.12.0: as for `logged_counts`.
    """
    return trainer._metrics[mode].pop(name)[-1]


def values_since(trainer: Any, before: dict[str, int], name: str) -> list[float]:
    """Return the values of a metric that a trainer of TRL has collected in training since `logged_counts`."""
    return trainer._metrics["train"].get(name, [])[before.get(name, 0) :]


def logged_since(trainer: Any, before: dict[str, int]) -> dict[str, float]:
    """Return the mean of each metric that a trainer of TRL has collected in training since `logged_counts`.

    trl 1.12.0: until they are logged, the metrics of an update are in `_metrics` only.
    """
    found = {name: values[before.get(name, 0) :] for name, values in trainer._metrics["train"].items()}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def add_logged(trainer: Any, metrics: dict[str, float]) -> None:
    """Add metrics to those that a trainer of TRL logs next."""
    for name, value in metrics.items():
        trainer._metrics["train"][name].append(value)
