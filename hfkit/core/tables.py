"""Creates the console that prints tables and colored lines, and formats numbers for them."""

from rich.console import Console


def make_console(width: int | None = None, **options) -> Console:
    """Return a console that prints texts verbatim: `[bold]` or `:smile:` in them has no effect.

    Args:
        width: characters per line without a terminal; rich's default is 80.
        options: options of rich's `Console`.
    """
    console = Console(markup=False, emoji=False, **options)
    if width is not None and not console.is_terminal:
        console.width = width
    return console


def interval_text(value: float, low: float | None = None, high: float | None = None, form: str = ".3f") -> str:
    """Return a number with its interval as text; the number alone if the interval is unknown."""
    interval = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{value:{form}}{interval}"
