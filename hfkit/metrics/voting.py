"""Self-consistency: the majority answer of several samples (Wang et al. 2022, arXiv 2203.11171)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

import numpy as np


def majority(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer; of several, the one that was sampled first; None if there is no answer."""
    counts = Counter(answer for answer in answers if answer is not None)
    return counts.most_common(1)[0][0] if counts else None  # equal counts stay in the order of their first sample


def majority_accuracy(
    answers: Sequence[Sequence[str | None]], references: Sequence[str], n: int, draws: int = 100
) -> np.ndarray:
    """Return how often the majority of n answers is right, for each question, (N,).

    Averages over all choices of n of the K answers, or over `draws` random ones if there are more.

    Args:
        answers: K answers to each of N questions; None where a response has no answer.
        references: the right answers.
    """
    random, shares = np.random.default_rng(0), np.empty(len(answers))
    for index, (own, reference) in enumerate(zip(answers, references, strict=True)):
        count, size = len(own), min(n, len(own))
        picks: Iterable[Sequence[int]] = combinations(range(count), size)
        if comb(count, size) > draws:
            picks = [sorted(random.permutation(count)[:size]) for _ in range(draws)]
        shares[index] = np.mean([majority([own[one] for one in pick]) == reference for pick in picks])
    return shares
