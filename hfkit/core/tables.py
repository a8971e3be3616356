"""The console that tables and colored lines are printed on."""

from rich.console import Console


def make_console(width: int | None = None, **options) -> Console:
    """Return a console that prints names and texts as they are: no `[bold]` or `:smile:` in them has a meaning.

    Args:
        width: of lines in a file, where there is no terminal; rich's default is 80 characters.
        options: of rich's `Console`.
    """
    console = Console(markup=False, emoji=False, **options)
    if width is not None and not console.is_terminal:
        console.width = width
    return console
