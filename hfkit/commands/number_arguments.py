"""Parses the numbers of command lines; imports no heavy library."""

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress


def within(kind: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return a parser of a number from `low` to `high` for the command line; it rejects infinity and NaN."""

    def number(word: str) -> float:
        with suppress(ValueError):
            if math.isfinite(value := kind(word)) and low <= value <= high:
                return value
        limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ArgumentTypeError(f"{word!r}: expected a number {limits}")

    return number


def number_of_gigabytes(word: str) -> float:
    """Parse a number of GB, with or without its unit: 24, 24GB, 24G."""
    digits = re.sub(r"(?<=\d)\s*gb?$", "", word, flags=re.IGNORECASE)
    try:
        return within(float, 0.001)(digits)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"{word!r}: expected a number of GB, such as 24") from None
