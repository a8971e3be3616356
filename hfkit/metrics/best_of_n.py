"""Best of n: the expected score of the best of n samples, and what it costs in KL."""

import math

import numpy as np
from numpy.typing import ArrayLike


def expected_best(scores: ArrayLike, n: int) -> np.ndarray:
    """Return the expected maximum of n of K scores, drawn without replacement, for each row, (N,).

    The estimate is unbiased: the i-th smallest of K scores is the best of n in C(i - 1, n - 1) of C(K, n) draws
    (Nakano et al. 2021, arXiv 2112.09332, appendix I).

    Args:
        scores: (N, K), K >= n.

    Raises:
        ValueError: n is not from 1 to K.
    """
    ordered = np.sort(np.asarray(scores, dtype=float), axis=1)
    count = ordered.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"n={n} is not from 1 to {count}")
    weights = [math.comb(index, n - 1) / math.comb(count, n) for index in range(count)]
    return ordered @ np.array(weights)


def best_of_n_kl(n: int) -> float:
    """Return log n - (n - 1) / n: an upper bound of the KL of best-of-n to the model that samples, in nats.

    It holds per response (Beirami et al. 2024, arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n
