"""Metrics of reward models on pairs: accuracy, calibration, and the influence of length."""

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from hfkit.data.encoding import pair_lengths
from hfkit.metrics.shares import share_interval


def metrics_of_rewards(chosen: np.ndarray, rejected: np.ndarray, pairs: Dataset) -> dict[str, float]:
    """Return all metrics of the rewards, (N,) each, for encoded pairs, or the pairs of encoded rankings.

    These are `metrics_of_margins`, `metrics_by_length`, the 95% interval of the accuracy (`accuracy_low`,
    `accuracy_high`), and `reward_mean` and `reward_std` over all replies: the scale that PPO starts from.

    The interval is over rows: pairs of one ranking share responses, so they count together.
    """
    margins, both = chosen - rejected, np.concatenate([chosen, rejected])
    chosen_length, rejected_length, rows = pair_lengths(pairs.with_format("arrow")[:])
    _, rows = np.unique(rows, return_inverse=True)
    low, high = share_interval(np.bincount(rows, margins > 0), np.bincount(rows))
    return {
        **metrics_of_margins(margins),
        "accuracy_low": low,
        "accuracy_high": high,
        **metrics_by_length(margins, chosen_length - rejected_length),
        "reward_mean": float(both.mean()),
        "reward_std": float(both.std()),
    }


def metrics_by_length(margins: ArrayLike, length_difference: ArrayLike) -> dict[str, float]:
    """Return how a reward model depends on length (Singhal et al. 2023, arXiv 2310.03716).

    `accuracy_chosen_longer` and `accuracy_chosen_shorter`: the accuracy on pairs of either kind; if they differ much,
    the model ranks by length. `longer_preferred` and `longer_chosen`: how often the model and the labels prefer the
    longer response, among pairs of unequal length. A metric without any pairs is left out.

    Args:
        margins: reward of the chosen response minus that of the rejected one, (N,).
        length_difference: length of the chosen response minus that of the rejected one, (N,).
    """
    right, difference = np.asarray(margins) > 0, np.asarray(length_difference)
    longer, shorter, unequal = difference > 0, difference < 0, difference != 0
    metrics = {}
    if longer.any():
        metrics["accuracy_chosen_longer"] = float(right[longer].mean())
    if shorter.any():
        metrics["accuracy_chosen_shorter"] = float(right[shorter].mean())
    if unequal.any():
        metrics["longer_preferred"] = float((right == longer)[unequal].mean())
        metrics["longer_chosen"] = float(longer[unequal].mean())
    return metrics


def metrics_of_margins(margins: ArrayLike) -> dict[str, float]:
    """Return accuracy, margin, log-loss and calibration of the Bradley-Terry model behind the pairwise loss.

    The model predicts that the chosen response is better with probability p = sigmoid(margin).
    `calibration_error` is the expected calibration error over ten bins of confidence max(p, 1-p) (Guo et al. 2017,
    arXiv 1706.04599): the mean gap between confidence and accuracy, weighted by pairs.

    Args:
        margins: reward of the chosen response minus that of the rejected one, (N,).
    """
    margin = np.asarray(margins, dtype=float)
    p = np.exp(-np.logaddexp(0, -margin))
    right = margin > 0
    confidence = np.maximum(p, 1 - p)
    bins = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return {
        "accuracy": float(right.mean()),
        "margin": float(margin.mean()),
        "log_loss": float(np.logaddexp(0, -margin).mean()),
        "calibration_error": float(sum(gaps)),
    }
