"""Intervals of shares: Wilson's where the bootstrap has no width."""

import numpy as np
import pytest

from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.metrics.shares import share_interval, wilson_interval


def test_wilsons_interval_has_the_published_values():
    """Newcombe 1998, table I, method 3."""
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson_interval(right / count, count) == pytest.approx((low, high), abs=1e-4)


def test_all_right_on_few_rows_is_not_certain():
    low, high = share_interval(np.ones(2), np.ones(2))
    assert low == pytest.approx(0.3424, abs=1e-4) and high == 1.0
    assert share_interval(np.zeros(2), np.ones(2))[1] == pytest.approx(1 - low)


def test_otherwise_it_is_the_bootstrap_over_groups():
    right, counts = np.array([3, 0, 5, 2]), np.array([6, 1, 5, 3])
    assert share_interval(right, counts) == bootstrap_interval(right, counts)
