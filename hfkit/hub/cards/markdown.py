"""Pieces of Markdown."""

import re


def markdown_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(escape_cell(text) for text in line) + " |" for line in lines)


def escape_cell(text: str) -> str:
    """Text that stays within its cell."""
    return one_line(text).replace("|", "\\|")


def one_line(text: str) -> str:
    """Text without its line breaks."""
    return re.sub(r"\s+", " ", text)


def fenced(text: str, language: str) -> str:
    """A code block whose fence no line of the text can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def blocks(*parts: list[str] | str) -> str:
    """Sentences as they are, lines of code as blocks."""
    return "\n\n".join(part if isinstance(part, str) else "```python\n" + "\n".join(part) + "\n```" for part in parts)
