"""Marks parameters as slow: the quick suite runs a few, `make test-slow` all others."""

from collections.abc import Iterable

import pytest


def mostly_slow(values: Iterable, quick: Iterable) -> list:
    """Return the values, tuples of several parameters or single ones; those that are not `quick` are marked slow."""
    quick = [*quick]
    return [value if value in quick else slow(*value if isinstance(value, tuple) else [value]) for value in values]


def slow(*values: object):
    """Return the values of one case, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)
