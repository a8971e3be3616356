"""Fits how an error falls with the number of rows: error = floor + factor * rows ** -exponent.

The law is that of Hestness et al. 2017 (arXiv 1712.00409) and Kaplan et al. 2020 (arXiv 2001.08361).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

EXPONENTS = np.linspace(0.005, 3, 2_000)
SIZES_WITH_A_FLOOR = 4
"""Different sizes from which three unknowns can be fitted; fewer are fitted without a floor."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Args:
        floor: the error that no number of rows goes below.
        factor, exponent: of the part that falls.
    """

    floor: float
    factor: float
    exponent: float

    def __call__(self, rows: ArrayLike) -> np.ndarray:
        """Return the error after training on so many rows, in the unit of the fitted errors."""
        return self.floor + self.factor * np.asarray(rows, dtype=float) ** -self.exponent


def fit_power_law(rows: ArrayLike, errors: ArrayLike) -> PowerLaw:
    """Return the law with the least squared error, relative to each measured error.

    For each exponent of a grid, floor and factor follow from linear least squares; neither may be negative.

    Args:
        rows: (N,), at least two different numbers.
        errors: (N,), above 0.

    Raises:
        ValueError: there are fewer than two different numbers of rows, or an error is not above 0.
    """
    rows, errors = np.asarray(rows, dtype=float), np.asarray(errors, dtype=float)
    if len(np.unique(rows)) < 2 or not (errors > 0).all():
        raise ValueError("a law needs two different numbers of rows, and errors above 0")
    laws = [PowerLaw(0.0, *_factor_without_floor(rows, errors, exponent)) for exponent in EXPONENTS]
    if len(np.unique(rows)) >= SIZES_WITH_A_FLOOR:
        laws += [law for exponent in EXPONENTS if (law := _law_with_floor(rows, errors, exponent)) is not None]
    return min(laws, key=lambda law: float((((law(rows) - errors) / errors) ** 2).sum()))


def _factor_without_floor(rows: np.ndarray, errors: np.ndarray, exponent: float) -> tuple[float, float]:
    relative = rows**-exponent / errors
    return float(relative.sum() / (relative**2).sum()), float(exponent)


def _law_with_floor(rows: np.ndarray, errors: np.ndarray, exponent: float) -> PowerLaw | None:
    columns = np.stack([1 / errors, rows**-exponent / errors], axis=1)
    floor, factor = np.linalg.lstsq(columns, np.ones_like(errors), rcond=None)[0]
    return PowerLaw(float(floor), float(factor), float(exponent)) if floor >= 0 and factor >= 0 else None
