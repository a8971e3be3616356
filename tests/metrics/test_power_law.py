"""Power laws: fits of made laws find their exponents."""

import numpy as np
import pytest

from hfkit.metrics.power_law import PowerLaw, fit_power_law

SIZES = np.array([100, 200, 400, 800, 1600])


@pytest.mark.parametrize(
    ("floor", "factor", "exponent"), [(0.5, 8, 0.5), (1.7, 3, 0.3), (0.0, 2, 0.2), (0.05, 30, 0.9)]
)
def test_the_exponent_of_a_made_law_is_found(floor, factor, exponent):
    law = fit_power_law(SIZES, PowerLaw(floor, factor, exponent)(SIZES))
    assert law.exponent == pytest.approx(exponent, rel=0.02)
    assert law(3200) == pytest.approx(PowerLaw(floor, factor, exponent)(3200), rel=0.01)


def test_noise_of_one_percent_moves_the_exponent_by_less_than_a_tenth():
    random = np.random.default_rng(0)
    rows = np.repeat(SIZES, 2)
    errors = PowerLaw(0.1, 10, 0.5)(rows) * (1 + 0.01 * random.normal(size=len(rows)))
    assert fit_power_law(rows, errors).exponent == pytest.approx(0.5, rel=0.1)


def test_three_sizes_have_no_floor():
    law = fit_power_law([100, 200, 400], PowerLaw(0.5, 8, 0.5)([100, 200, 400]))
    assert law.floor == 0 and 0 < law.exponent < 0.5


@pytest.mark.parametrize(("rows", "errors"), [([100, 100], [1, 2]), ([100, 200], [1, 0])])
def test_what_has_no_law_is_an_error(rows, errors):
    with pytest.raises(ValueError, match="two different numbers of rows, and errors above 0"):
        fit_power_law(rows, errors)
