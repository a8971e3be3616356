"""Krippendorff's alpha: computed by hand, and published examples."""

import numpy as np
import pytest

from hfkit.metrics.agreement import (
    agreement,
    alpha_of,
    alpha_of_coincidences,
    bootstrap_alpha,
    coincidences,
    pair_counts,
    share_equal,
)

NAN = float("nan")
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", part C: four observers, twelve units, five values.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
# The same, part B: two observers, twelve units, five values.
NOMINAL = ["aabbdcccedda", "babbbccceddd"]


def counts_of(data, values) -> np.ndarray:
    """How often each unit got each value."""
    table = np.asarray(data, dtype=float)
    return np.array([[(column == value).sum() for value in values] for column in table.T])


@pytest.mark.parametrize(
    ("data", "values", "alpha"),
    [(PUBLISHED, range(1, 6), 0.743), ([[*map(ord, one)] for one in NOMINAL], [*map(ord, "abcde")], 0.692)],
)
def test_published_examples(data, values, alpha):
    counts = counts_of(data, values)
    assert alpha_of(counts) == pytest.approx(alpha, abs=5e-4)
    assert alpha_of_coincidences(coincidences(counts)) == pytest.approx(alpha, abs=5e-4)


def test_by_hand():
    """Two labelers, four pairs: better/better, better/worse, worse/worse, tie/tie.

    Coincidences: o(b,b) = 2, o(b,w) = o(w,b) = 1, o(w,w) = 2, o(t,t) = 2; n = 8, n(b) = 3, n(w) = 3, n(t) = 2.
    Observed disagreement 2 / 8; expected (64 - 9 - 9 - 4) / (8 * 7) = 42 / 56; alpha = 1 - 0.25 / 0.75 = 2 / 3.
    """
    counts = np.array([[2, 0, 0], [1, 0, 1], [0, 0, 2], [0, 2, 0]])
    assert alpha_of(counts) == pytest.approx(2 / 3)
    assert alpha_of_coincidences(coincidences(counts)) == pytest.approx(2 / 3)
    assert share_equal(counts) == 0.75


def test_formula_and_library_are_equal_on_random_units():
    random = np.random.default_rng(0)
    for _ in range(50):
        counts = random.integers(0, 4, (random.integers(2, 40), 3))
        found = alpha_of(counts)
        if found is not None:
            assert alpha_of_coincidences(coincidences(counts)) == pytest.approx(found, abs=1e-10)


def test_pairs_of_responses_are_better_equal_or_worse():
    counts = pair_counts([[1, 2, 2], [1, 1, NAN], [3, 1, 2]])
    assert counts.tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 0]]  # (0, 1), (0, 2), (1, 2): lower ranks are better


def test_it_is_undefined_without_two_values_or_two_labelers():
    assert alpha_of(np.array([[1, 0, 0], [0, 0, 1]])) is None and share_equal(np.array([[1, 0, 0]])) is None
    assert alpha_of(np.array([[2, 0, 0], [2, 0, 0]])) is None and share_equal(np.array([[2, 0, 0]])) == 1
    assert bootstrap_alpha([]) == (None, None) == bootstrap_alpha([np.array([[2, 0, 0]])] * 5)
    found = agreement({"r": {"Ann": [1, 2]}})
    assert (found["pairs"], found["alpha"], found["equal"], found["low"], found["labelers"]) == (
        0,
        None,
        None,
        None,
        [],
    )
    assert agreement({})["rows"] == []


def test_agreement_of_all_of_each_two_and_of_each_row():
    verdicts = {
        "same": {"Ann": [1, 2, 3], "Bob": [1, 2, 3], "Cid": [1, 2, 3]},
        "other": {"Ann": [1, 2, 3], "Bob": [3, 2, 1]},
        "alone": {"Ann": [1, 2, 3]},
        "nothing in common": {"Ann": [1, 2, NAN], "Bob": [NAN, NAN, 1]},
    }
    found = agreement(verdicts)
    assert found["pairs"] == 6 and found["equal"] == pytest.approx(9 / 12)
    pairs = {(row["a"], row["b"]): row for row in found["labelers"]}
    assert [*pairs] == [("Ann", "Bob"), ("Ann", "Cid"), ("Bob", "Cid")]
    assert (pairs["Ann", "Bob"]["pairs"], pairs["Ann", "Bob"]["equal"]) == (6, 0.5)
    # 6 units: 3 better/better, 3 better/worse: n = 12, n(b) = 9, n(w) = 3; 1 - 11 * 6 / (144 - 81 - 9)
    assert pairs["Ann", "Bob"]["alpha"] == pytest.approx(1 - 66 / 54)
    assert (pairs["Ann", "Cid"]["equal"], pairs["Ann", "Cid"]["alpha"]) == (1, None)
    rows = {row["row"]: row for row in found["rows"]}
    assert [*rows] == ["same", "other"] and (rows["same"]["alpha"], rows["same"]["equal"]) == (None, 1)
    assert rows["other"]["equal"] == 0 and rows["other"]["alpha"] == pytest.approx(1 - 5 * 6 / (36 - 9 - 9))


def test_the_interval_covers_alpha_and_shrinks_with_more_rows():
    random = np.random.default_rng(1)

    def rows_of(count: int) -> dict:
        rows = {}
        for index in range(count):
            truth = random.permutation(4)
            noisy = [np.argsort(np.argsort(truth + random.normal(0, 1, 4))).tolist() for _ in range(2)]
            rows[str(index)] = dict(zip(("Ann", "Bob"), noisy, strict=True))
        return rows

    few, many = agreement(rows_of(30)), agreement(rows_of(300))
    for found in (few, many):
        assert found["low"] < found["alpha"] < found["high"]
    assert many["high"] - many["low"] < 0.6 * (few["high"] - few["low"])
    shared = {row: {"Ann": own["Ann"], "Bob": own["Ann"]} for row, own in rows_of(30).items()}
    assert agreement(shared)["alpha"] == agreement(shared)["low"] == 1
