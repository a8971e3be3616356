"""Agreement of labelers about pairs of responses: Krippendorff's alpha, with an interval by bootstrap over rows."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hfkit.core.errors import HfkitError


def pair_counts(ranks: Sequence[Sequence[float]]) -> NDArray[np.int64]:
    """Return how many labelers found the first response of each pair better, equal or worse: (K (K - 1) / 2, 3)."""
    given = np.asarray(ranks, dtype=float)
    pairs = list(combinations(range(given.shape[1]), 2))
    counts = np.zeros((len(pairs), 3), dtype=np.int64)
    for index, (one, other) in enumerate(pairs):
        difference = given[:, one] - given[:, other]
        known = np.sign(difference[~np.isnan(difference)]).astype(int) + 1
        counts[index] = np.bincount(known, minlength=3)
    return counts


def alpha_of(counts: NDArray[np.int64]) -> float | None:
    """Return Krippendorff's nominal alpha of units (Krippendorff 2011), 1 for full agreement and 0 for chance.

    Args:
        counts: how often each unit got each value, (units, values).

    Returns:
        None if no unit has two values, or if all values are the same: then there is no chance to compare with.

    Raises:
        HfkitError: the library is not installed.
    """
    shared = counts[counts.sum(axis=1) > 1]
    if (shared.sum(axis=0) > 0).sum() < 2:
        return None
    try:
        library = import_module("krippendorff")
    except ImportError as error:
        raise HfkitError("agreement needs the package krippendorff: pip install 'hfkit[label]'") from error
    return float(library.alpha(value_counts=shared, level_of_measurement="nominal"))


def share_equal(counts: NDArray[np.int64]) -> float | None:
    """Return the share of pairs of judgements about the same unit that are equal; None if there are none."""
    totals = counts.sum(axis=1)
    pairs = totals * (totals - 1)
    return float((counts * (counts - 1)).sum() / pairs.sum()) if pairs.sum() else None


def coincidences(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the coincidence matrix of units (Krippendorff 2011), (values, values); those of rows add up."""
    given = counts[counts.sum(axis=1) > 1].astype(float)
    weights = 1 / (given.sum(axis=1) - 1)
    return np.einsum("ua,ub,u->ab", given, given, weights) - np.diag(weights @ given)


def alpha_of_coincidences(matrix: NDArray[np.float64]) -> float:
    """Return the nominal alpha of a coincidence matrix; NaN where it is undefined."""
    totals = matrix.sum(axis=0)
    expected = totals.sum() ** 2 - (totals**2).sum()
    return float(1 - (totals.sum() - 1) * (matrix.sum() - np.trace(matrix)) / expected) if expected else float("nan")


def bootstrap_alpha(rows: Sequence[NDArray[np.int64]]) -> tuple[float | None, float | None]:
    """Return the 95% percentile bootstrap interval of alpha over rows, whose pairs stay together.

    Resamples in which alpha is undefined are left out; with fewer than two rows there is no interval.
    """
    rows = [counts for counts in rows if (counts.sum(axis=1) > 1).any()]
    if len(rows) < 2:
        return None, None
    matrices = np.stack([coincidences(counts) for counts in rows])
    random, found = np.random.default_rng(0), np.empty(1000)
    for index in range(len(found)):
        drawn = np.bincount(random.integers(0, len(rows), len(rows)), minlength=len(rows))
        found[index] = alpha_of_coincidences(np.tensordot(drawn, matrices, axes=1))
    if np.isnan(found).all():
        return None, None
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def agreement(verdicts: Mapping[str, Mapping[str, Sequence[float]]]) -> dict:
    """Return the agreement of labelers about which of two responses is better.

    Args:
        verdicts: row -> labeler -> rank of each response, NaN for none.

    Returns:
        alpha, low, high (95% interval), pairs (of responses that two or more labelers compared), equal (share of equal
        verdicts), labelers (rows of a, b, pairs, alpha, equal) and rows (row, pairs, alpha, equal). A value is None
        where it is undefined.
    """
    several = {row: by_name for row, by_name in verdicts.items() if len(by_name) > 1}
    counts = {row: pair_counts(list(by_name.values())) for row, by_name in several.items()}
    counts = {row: own for row, own in counts.items() if (own.sum(axis=1) > 1).any()}
    everything = np.concatenate([np.zeros((0, 3), dtype=np.int64), *counts.values()])
    low, high = bootstrap_alpha(list(counts.values()))
    names = sorted({name for by_name in several.values() for name in by_name})
    by_pair = []
    for a, b in combinations(names, 2):
        shared = [pair_counts([own[a], own[b]]) for own in several.values() if a in own and b in own]
        if shared and (together := summary(np.concatenate(shared)))["pairs"]:
            by_pair.append({"a": a, "b": b, **together})
    return {
        **summary(everything),
        "low": low,
        "high": high,
        "labelers": by_pair,
        "rows": [{"row": row, **summary(own)} for row, own in counts.items()],
    }


def summary(counts: NDArray[np.int64]) -> dict:
    """Return the number of units that two or more labelers judged, their alpha, and the share of equal verdicts."""
    return {
        "pairs": int((counts.sum(axis=1) > 1).sum()),
        "alpha": alpha_of(counts),
        "equal": share_equal(counts),
    }
