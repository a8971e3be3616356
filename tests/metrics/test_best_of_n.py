"""Best of n and majority votes: against enumeration of all choices."""

from itertools import combinations

import numpy as np
import pytest

from hfkit.metrics.best_of_n import best_of_n_kl, expected_best
from hfkit.metrics.voting import majority, majority_accuracy


def test_the_expected_best_is_the_mean_over_all_choices():
    scores = np.random.default_rng(0).normal(size=(5, 7))
    for n in range(1, 8):
        choices = [scores[:, list(choice)].max(1) for choice in combinations(range(7), n)]
        assert expected_best(scores, n) == pytest.approx(np.mean(choices, 0), abs=1e-12)
    for n in (0, 8):
        with pytest.raises(ValueError, match=f"n={n} is not from 1 to 7"):
            expected_best(scores, n)


def test_the_kl_of_best_of_n_bounds_that_of_distinct_scores():
    # over M equally likely responses with distinct scores, best of n draws rank r with (r^n - (r-1)^n) / M^n
    for n in (1, 2, 4, 16):
        ranks = np.arange(1, 2001) / 2000
        shares = ranks**n - (ranks - 1 / 2000) ** n
        exact = float(np.sum(shares * np.log(np.maximum(shares, 1e-300) * 2000)))
        assert exact <= best_of_n_kl(n) + 1e-9 and best_of_n_kl(n) == pytest.approx(exact, abs=0.02)


def test_a_majority_prefers_the_first_of_equals_and_skips_missing_answers():
    assert majority(["a", "b", "b", None]) == "b"
    assert majority(["c", "a", "a", "c"]) == "c"
    assert majority([None, None]) is None


def test_the_accuracy_of_a_majority():
    answers = [["x", "x", "y"], ["y", "y", "x"]]
    one, three = (majority_accuracy(answers, ["x", "x"], n, draws=4000) for n in (1, 3))
    assert one == pytest.approx([2 / 3, 1 / 3], abs=0.03)
    assert three.tolist() == [1.0, 0.0]
    assert majority_accuracy([[None, "x"]], ["x"], 2).tolist() == [1.0]
    few = [["x", "y", "y", "z"]]
    assert [majority_accuracy(few, ["x"], n).item() for n in (1, 2, 9)] == [1 / 4, 1 / 2, 0]  # of all choices
    many = majority_accuracy([["x", *"yz" * 10]], ["x"], 3, draws=4000)
    assert many.item() == pytest.approx(3 / 21 * 10 / 19, abs=0.02)
