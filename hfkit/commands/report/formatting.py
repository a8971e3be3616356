"""Figures as one would say them."""

import re

WORDS = {"kl": "KL", "bleu": "BLEU"}


def format_number(value: float) -> str:
    """A figure with about three digits."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def format_interval(value: float, low: float | None, high: float | None) -> str:
    """A figure with its interval, where there is one."""
    return (
        format_number(value)
        if low is None or high is None
        else f"{format_number(value)} ({format_number(low)} to {format_number(high)})"
    )


def format_count(count: float | None) -> str:
    """A count with its thousands apart; a dash where nothing was counted."""
    return f"{count:,.0f}" if count else "–"


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def gigabytes(count: int | None) -> str:
    """Bytes in GB (1e9)."""
    return f"{count / 1e9:.2f} GB" if count else "–"


def metric_name(key: str) -> str:
    """A metric's key as words."""
    return " ".join(WORDS.get(word, word) for word in key.removeprefix("eval_").split("_"))


def capitalized(text: str) -> str:
    """A text that begins a line."""
    return text[:1].upper() + text[1:]


def slug(text: str) -> str:
    """A file's name of a text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
