"""Format tables, code blocks and text in Markdown."""

import re


def markdown_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table; line breaks and bars in a text do not break its cell."""
    cells = [[one_line(text).replace("|", "\\|") for text in row] for row in (head, ("---",) * len(head), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def one_line(text: str) -> str:
    """Return text with each run of white space, line breaks included, as one space."""
    return re.sub(r"\s+", " ", text)


def fenced(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any in the text, so that no line of it closes the block."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
