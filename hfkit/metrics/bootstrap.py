"""Bootstrap confidence intervals."""

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike, weights: ArrayLike | None = None, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean or of a ratio of sums (Efron and Tibshirani 1993, ch. 13).

    Args:
        values: one value per sample, (N,).
        weights: (N,); the interval is then of sum(values) / sum(weights), for example of nats per token.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    random, means = np.random.default_rng(seed), np.empty(resamples)
    for index in range(resamples):  # one at a time: resampling a million values at once would take 32 GB
        picks = random.integers(0, len(values), len(values))
        means[index] = values[picks].sum() / weights[picks].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
