"""Format tables, code blocks and text in Markdown."""

import re

SPECIAL = re.compile(r"[\\`*_\[\]|~$]")
"""Characters that have a meaning anywhere in a line of Markdown; those of HTML become entities."""
BLOCK_START = re.compile(r"\d{1,9}(?=[.)])|(?=[#>+=-])")
"""The start of a line that is a heading, a quote, a list or a rule, up to the character that needs a backslash."""


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


def quoted(text: str, label: str = "") -> str:
    """Return a quote that shows text line by line, without a meaning as Markdown or HTML.

    Args:
        label: Markdown to show before the first line.
    """
    first, *others = [escape_markdown(line) for line in text.splitlines()] or [""]
    lines = [label + first, *others]
    breaks = ["\\" if line and following else "" for line, following in zip(lines, [*lines[1:], ""], strict=True)]
    return "\n".join(f"> {line}{end}".rstrip() for line, end in zip(lines, breaks, strict=True))


def escape_markdown(line: str) -> str:
    """Return a line of text as Markdown; the spaces at its start become spaces that do not break."""
    line = line.expandtabs(4).rstrip()
    content = line.lstrip()
    start = BLOCK_START.match(content)
    plain = SPECIAL.sub(r"\\\g<0>", content.replace("&", "&amp;").replace("<", "&lt;"))
    plain = f"{plain[: start.end()]}\\{plain[start.end() :]}" if start else plain
    return "&nbsp;" * (len(line) - len(content)) + plain
