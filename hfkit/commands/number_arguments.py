"""Parses the numbers of command lines; imports no heavy library."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable


def within(kind: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return a parser of a number from `low` to `high` for the command line; it rejects infinity and NaN."""

    def number(word: str) -> float:
        if math.isfinite(value := kind(word)) and low <= value <= high:
            return value
        limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ArgumentTypeError(f"{word!r}: expected a number {limits}")

    return number
