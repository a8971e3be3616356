"""docs/lint/prose.py: what it reads in each kind of file, and what it reports."""

import runpy
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LONG = " ".join(["word"] * 31)


@pytest.fixture
def lint(tmp_path, capsys):
    """Return a function that writes a file, runs the script on it, and returns its lines and exit status."""
    shutil.copytree(ROOT / "docs" / "lint", tmp_path / "docs" / "lint")
    main = runpy.run_path(str(tmp_path / "docs" / "lint" / "prose.py"))["main"]

    def run(name: str, text: str) -> tuple[list[str], int]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        status = main([str(path)])
        return capsys.readouterr().out.splitlines(), status

    return run


def test_a_finding_names_file_line_text_and_remedy(lint):
    assert lint("README.md", "A line.\nEach stage has a folder\nof its own.\n") == (
        ["README.md:3: of its own: write its own X, a separate X, or X of this run"],
        1,
    )


def test_plain_english_passes(lint):
    assert lint("README.md", "Each stage writes its own folder.\n") == ([], 0)


@pytest.mark.parametrize(
    "text",
    [
        "Set `at hand` here.\n",
        "```bash\nhfkit at hand\n```\n",
        "- item\n\n  ```yaml\n  a: at hand\n  ```\n",
        "---\ntitle: at hand\n---\nText.\n",
        "[text](at hand)\n",
        "<!-- at hand -->\n",
    ],
)
def test_code_in_markdown_is_not_read(lint, text):
    assert lint("docs/page.md", text) == ([], 0)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("hfkit/a.py", '"""One at hand."""\n', [1]),
        ("hfkit/a.py", "x = 1  # the one at\n# hand\n", [1]),
        ("hfkit/a.py", 'x = f"{x} at hand"\n', [1]),
        ("hfkit/a.py", 'x = (\n    "the one at "\n    "hand"\n)\n', [2]),
        ("hfkit/a.py", "at = hand\n", []),
        ("hfkit/a.py", "told_once = 1\n", [1]),
        ("hfkit/a.py", "untold = 1\n", []),
        ("hfkit/a.yaml", 'key: "the one at hand"\n', [1]),
        ("configs/a.yaml", 'key: "the one at hand"  # at hand\n', [1]),
        ("configs/a.yaml", 'key: "the one at hand"\n', []),
        ("tests/test_a.py", 'def test_one_at_hand():\n    """It is at hand."""\n    assert f("at hand")\n', [1, 2]),
    ],
)
def test_what_is_read_in_each_kind_of_file(lint, name, text, lines):
    found, _ = lint(name, text)
    assert [int(line.split(":")[1]) for line in found] == lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{LONG}.\n", [31]),
        (f"{LONG[:-5]}.\n", []),
        (f"{LONG[:-5]}. More words.\n", []),
        (f"- {LONG[:-5]}\n- {LONG[:-5]}\n", []),
        (f"{LONG[:-5]} `hfkit sft --config a.yaml`.\n", [31]),
        (f"| {LONG} |\n|---|\n| {LONG} |\n", []),
        (f"# {LONG}\n", []),
        (f"```text\n{LONG}\n```\n", []),
    ],
)
def test_sentences_of_more_than_30_words_are_reported(lint, text, words):
    found, _ = lint("docs/page.md", text)
    assert [int(line.split(": ")[2].split()[0]) for line in found] == words


def test_a_long_sentence_is_reported_only_in_the_documentation(lint):
    assert lint("CHANGELOG.md", f"{LONG}.\n") == ([], 0)


def test_every_exception_has_a_file_and_a_reason():
    listed = yaml.safe_load((ROOT / "docs" / "lint" / "exceptions.yaml").read_text(encoding="utf-8"))
    assert [name for name in listed if not (ROOT / name).is_file()] == []
    assert all(isinstance(reason, str) and reason for texts in listed.values() for reason in texts.values())
