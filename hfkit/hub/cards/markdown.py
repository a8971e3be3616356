"""Format tables, code blocks and text in Markdown."""

import re


def markdown_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(escape_cell(text) for text in line) + " |" for line in lines)


def escape_cell(text: str) -> str:
    """Return text that does not break its table cell."""
    return one_line(text).replace("|", "\\|")


def one_line(text: str) -> str:
    """Return text with each run of white space, line breaks included, as one space."""
    return re.sub(r"\s+", " ", text)


def fenced(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any in the text, so that no line of it closes the block."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def blocks(*parts: list[str] | str) -> str:
    """Return sentences as they are and lists of lines as blocks of Python, separated by blank lines."""
    return "\n\n".join(part if isinstance(part, str) else "```python\n" + "\n".join(part) + "\n```" for part in parts)
