"""Bootstrap confidence intervals."""

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(values: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a mean or a ratio of sums (Efron and Tibshirani 1993, ch. 13).

    Args:
        values: one value per sample, (N,).
        weights: (N,); the interval is then of sum(values) / sum(weights), for example of nats per token.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    random, means = np.random.default_rng(0), np.empty(2000)
    for index in range(len(means)):  # one at a time: resampling a million values at once would take 32 GB
        picks = random.integers(0, len(values), len(values))
        means[index] = values[picks].sum() / weights[picks].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
