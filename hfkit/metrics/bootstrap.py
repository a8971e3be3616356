"""How far a mean could be off."""

import numpy as np


def bootstrap_interval(
    values, weights=None, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, or of a ratio of sums (Efron and Tibshirani 1993, ch. 13).

    Args:
        values: one figure per sample, (N,).
        weights: what the values are shared out over, (N,): of sum(values) / sum(weights), as nats over tokens.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    random, means = np.random.default_rng(seed), np.empty(resamples)
    for place in range(resamples):  # one at a time: all at once, a million values would take 32 GB
        picks = random.integers(0, len(values), len(values))
        means[place] = values[picks].sum() / weights[picks].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
