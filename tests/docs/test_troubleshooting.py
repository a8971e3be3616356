"""docs/troubleshooting.md: each of its messages is one that the code prints."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^### `([^`]+)`\n\n(.*?)(?=\n##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
FIELD = "…"


def template(node: ast.AST) -> str:
    """Return the text that an expression makes, with `FIELD` for what is known only at run time."""
    if isinstance(node, ast.JoinedStr):
        return "".join(value.value if isinstance(value, ast.Constant) else FIELD for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else FIELD


@pytest.fixture(scope="module")
def messages() -> str:
    """Every text of the code and of its YAML files, one a line."""
    texts = [
        template(node)
        for path in sorted((ROOT / "hfkit").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))
    ]
    for path in (ROOT / "hfkit" / "config").glob("*.yaml"):
        texts += str(yaml.safe_load(path.read_text(encoding="utf-8"))).split("', '")
    return "\n".join(text.replace("\n", " ") for text in texts)


@pytest.mark.parametrize("message", ENTRIES)
def test_the_code_has_the_message(message, messages):
    parts = [re.escape(part.strip()) for part in message.split(FIELD) if part.strip()]
    pattern = r"[^\n]*".join(parts)
    assert re.search(pattern, messages, re.IGNORECASE), f"no text of hfkit/ reads: {message}"


def test_each_message_has_a_remedy():
    assert len(ENTRIES) >= 40
    assert [message for message, text in ENTRIES.items() if "**Remedy.**" not in text] == []
