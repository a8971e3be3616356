"""Formats numbers, intervals, durations and names as text."""

import re

WORDS = {"kl": "KL", "bleu": "BLEU"}


def format_number(value: float) -> str:
    """Return a number with about three digits."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def format_interval(value: float, low: float | None, high: float | None) -> str:
    """Return a number with its interval, if it has one."""
    interval = "" if low is None or high is None else f" ({format_number(low)} to {format_number(high)})"
    return format_number(value) + interval


def format_count(count: float | None) -> str:
    """Return a count with thousands separators; a dash for None."""
    return f"{count:,.0f}" if count else "–"


def duration(seconds: float | None) -> str:
    """Return seconds as hours, minutes and seconds."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def metric_name(key: str) -> str:
    """Return the name of a metric from its key."""
    return " ".join(WORDS.get(word, word) for word in key.removeprefix("eval_").split("_"))


def slug(text: str) -> str:
    """Return a text in a form that fits into a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
