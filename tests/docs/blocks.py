"""Reads the code blocks of a Markdown page, and writes those that have a file name."""

import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "reference"
BLOCK = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w+-]*)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.DOTALL | re.MULTILINE,
)
NOT_RUN = re.compile(r"<!--\s*not run\b:?\s*(?P<reason>.*?)\s*-->\s*\Z", re.DOTALL)
PROMPTS = ("prompt", "instruction", "question", "query", "messages", "conversations", "text")
ROWS = 96
"""The rows that a JSONL file of a page is repeated to, so that a stage can hold some out and train on the rest."""


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        line: the number of its first line in the page.
        title: the name of the file that it is written to; "" for a block without a file.
        reason: why it is not run; None for a block that is run.
    """

    line: int
    language: str
    title: str
    text: str
    reason: str | None

    @property
    def is_commands(self) -> bool:
        """Whether it is commands, one a line, and not a script."""
        return self.language == "bash" and not self.title and not self.text.startswith("#!")


def find_pages() -> list[Path]:
    """Return the README and every page that is written by hand."""
    pages = sorted(page for page in (ROOT / "docs").rglob("*.md") if GENERATED not in page.parents)
    return [ROOT / "README.md", *pages]


def read_blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page from top to bottom."""
    content, blocks = page.read_text(encoding="utf-8"), []
    for found in BLOCK.finditer(content):
        before = content[: found.start()].rstrip()
        comment = NOT_RUN.search(before)
        title = re.search(r'title="([^"]+)"', found["info"])
        blocks.append(
            Block(
                line=content.count("\n", 0, found.start()) + 2,
                language=found["language"],
                title=title[1] if title else "",
                text=textwrap.dedent(found["text"]),
                reason=comment["reason"] if comment else None,
            )
        )
    return blocks


def write_file(block: Block, folder: Path) -> None:
    """Write a block to the file that its title names; a JSONL file gets `ROWS` rows."""
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    text = repeat_rows(block.text) if path.suffix == ".jsonl" else block.text
    path.unlink(missing_ok=True)  # a link of the folder is replaced, its target is not
    path.write_text(text, encoding="utf-8")


def repeat_rows(text: str) -> str:
    """Return JSONL with its rows repeated under changed prompts until there are `ROWS`."""
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    more = [change_prompt(rows[index % len(rows)], index) for index in range(len(rows), ROWS)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, *more])


def change_prompt(row: dict, index: int) -> dict:
    """Return a row with a number at the end of its prompt; without a prompt, of the first message of each column."""
    named = [key for key in PROMPTS if row.get(key)][:1]
    keys = named or [key for key, value in row.items() if isinstance(value, list)] or list(row)[:1]
    return {**row, **{key: change_value(row[key], index) for key in keys}}


def change_value(value: object, index: int) -> object:
    """Return a text, or a conversation in its first message of a user, with a number at its end."""
    if isinstance(value, str):
        return f"{value} {index}"
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return value
    first = next((at for at, turn in enumerate(value) if {"user", "human"} & {turn.get("role"), turn.get("from")}), 0)
    key = "content" if "content" in value[first] else "value"
    changed = {**value[first], key: f"{value[first].get(key)} {index}"}
    return [*value[:first], changed, *value[first + 1 :]]
