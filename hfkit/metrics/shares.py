"""Confidence intervals of shares, such as an accuracy."""

import math

import numpy as np
from numpy.typing import ArrayLike

from hfkit.metrics.bootstrap import bootstrap_interval

Z = 1.959964
"""The 97.5% quantile of the normal distribution."""


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` rows (Wilson 1927); it has a width also for 0 and 1."""
    scale, center = 1 + Z**2 / count, share + Z**2 / (2 * count)
    width = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, (center - width) / scale), min(1.0, (center + width) / scale)


def share_interval(right: ArrayLike, counts: ArrayLike) -> tuple[float, float]:
    """Return the 95% interval of sum(right) / sum(counts) over groups: the bootstrap over groups, see there.

    Where all are right, or none, the bootstrap has no width: then it is Wilson's, with one observation per group.

    Args:
        right: number of right ones of each group, (N,).
        counts: size of each group, (N,).
    """
    right, counts = np.asarray(right, dtype=float), np.asarray(counts, dtype=float)
    share = float(right.sum() / counts.sum())
    return wilson_interval(share, len(right)) if share in (0.0, 1.0) else bootstrap_interval(right, counts)
