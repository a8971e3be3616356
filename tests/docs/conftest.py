"""The folder in which the pages of the documentation are run."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from docs.blocks import ROOT, ROWS
from docs.commands import dotted_flags
from hfkit.cli import main
from hfkit.quickstart import summary, world
from hfkit.stages.pipeline_file import read_pipeline

SIZES = {"DOCUMENT_COUNT": 1500, "INSTRUCTION_COUNT": 200, "RANKINGS": 40, "PROMPT_COUNT": 200}
HELD_OUT = {"DOCUMENTS_TEST": 40, "INSTRUCTIONS_TEST": 20, "RANKINGS_TEST": 10, "QUESTIONS_TEST": 24}
LINKS = ("configs", "scripts", "examples", "data_cards")
NAMES = "Ann Bob Cid Dee Eve Fay Gus Hal".split()


def user_files() -> dict[str, list[dict]]:
    """Return the rows of the reader's own files, by name."""
    people = [(f"Who is number {index}?", NAMES[index % len(NAMES)]) for index in range(ROWS)]
    return {
        "my-instructions.jsonl": [{"prompt": q, "response": f"It is {name}."} for q, name in people],
        "my-pairs.jsonl": [{"prompt": q, "chosen": f"It is {name}, I think.", "rejected": "No."} for q, name in people],
        "my-rankings.jsonl": [
            {"prompt": q, "replies": [f"It is {name}, I think.", f"{name}.", "No."], "ranks": [1, 2, 3]}
            for q, name in people
        ],
        "my-prompts.jsonl": [{"prompt": q} for q, _ in people],
        "my-alpaca.json": [{"instruction": q, "input": "", "output": f"It is {name}."} for q, name in people],
        "my-sharegpt.json": [
            {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": f"It is {name}."}]}
            for q, name in people
        ],
    }


def write_user_files(folder: Path) -> None:
    """Write the reader's own files, and the links to what hfkit comes with."""
    for name in LINKS:
        (folder / name).symlink_to(ROOT / name)
    for name, rows in user_files().items():
        lines = [json.dumps(row) for row in rows]
        text = f"[{', '.join(lines)}]\n" if name.endswith(".json") else "".join(f"{line}\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    text = "\n\n".join(f"{name} likes number {index}." for index, name in enumerate(NAMES * 12))
    (folder / "my-text.txt").write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def quickstart_folder(tmp_path_factory, base_dir) -> Path:
    """The reader's folder, in which a very short quickstart has run; pages get copies of it."""
    folder = tmp_path_factory.mktemp("reader")
    write_user_files(folder)
    shutil.copytree(base_dir, folder / "my-model", ignore=shutil.ignore_patterns("checkpoint-*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch_sizes(patch)
        stages = read_pipeline(ROOT / "configs" / "quickstart" / "pipeline.yaml").stages
        flags = [word for flag, values in dotted_flags(stages).items() for word in (flag, *values)]
        assert main(["quickstart", *flags]) == 0
    return folder


def patch_sizes(patch: pytest.MonkeyPatch) -> None:
    """Make the quickstart's world small and the replies of its summary short."""
    for name, size in {**SIZES, **HELD_OUT}.items():
        patch.setattr(world, name, size)
    patch.setattr(summary, "REPLY_TOKENS", 16)


@pytest.fixture
def page_modules(tmp_path):
    """Forget the modules of a page afterwards: the next page may have another my_rewards.py."""
    modules, paths = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def folder(quickstart_folder, tmp_path, page_modules, monkeypatch) -> Path:
    """A fresh copy of the reader's folder, as the current folder."""
    copy = tmp_path / "reader"
    shutil.copytree(quickstart_folder, copy, symlinks=True)
    monkeypatch.chdir(copy)
    patch_sizes(monkeypatch)
    return copy


@pytest.fixture
def folder_without_runs(tmp_path, page_modules, monkeypatch) -> Path:
    """The reader's folder without models, as the current folder: enough to parse commands."""
    write_user_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
