"""Marks parameters as slow: the quick suite runs a few, `make test-slow` all others."""

from collections.abc import Iterable

import pytest


def mostly_slow(values: Iterable, quick: Iterable) -> list:
    """Return the values as parameters; those that are not `quick` are marked slow."""
    return [value if value in [*quick] else pytest.param(value, marks=pytest.mark.slow) for value in values]
