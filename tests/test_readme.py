"""The README tells the truth: each of its commands and snippets runs, in a folder where the quickstart has run."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hfkit.cli import main
from hfkit.quickstart import summary, world
from hfkit.stages.pipeline_file import read_pipeline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
# What makes a command short enough for a test; everything else of it runs as it stands.
SHORT = {"pretrain": ["--max_steps", "3"], "sft": ["--max_steps", "3"], "reward": ["--max_steps", "3"]}
SHORT["dpo"] = ["--max_steps", "3", "--eval_prompts", "4", "--response_length", "8"]
SHORT["grpo"] = SHORT["rloo"] = ["--max_steps", "2", "--response_length", "8"]
SHORT["ppo"] = ["--total_episodes", "64", "--response_length", "16"]
SHORT["evaluate"] = ["--max_prompts", "8", "--response_length", "8"]
SHORT["arena"] = [*SHORT["evaluate"], "--diversity_prompts", "2", "--diversity_samples", "2"]
# And a world small enough.
SIZES = {"DOCUMENT_COUNT": 1500, "INSTRUCTION_COUNT": 200, "RANKINGS": 40, "PROMPT_COUNT": 200}
HELD_OUT = {"DOCUMENTS_TEST": 40, "INSTRUCTIONS_TEST": 20, "RANKINGS_TEST": 10, "QUESTIONS_TEST": 24}


def shortened(words: list[str]) -> list[str]:
    """A command of hfkit's as words, with the flags that make it short."""
    if words[0] != "run":
        return [*words, *SHORT.get(words[0], [])]
    stages = yaml.safe_load((ROOT / words[1]).read_text())["stages"]
    return [*words, *dotted(stages)]


def dotted(stages) -> list[str]:
    """The flags of several stages, as a pipeline takes them."""
    return [flag.replace("--", f"--{stage}.") for stage in stages for flag in SHORT.get(stage, [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, base_dir):
    """A folder as a reader of the README has it: the configs, the quickstart's runs, files of their own."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my-model").symlink_to(base_dir)
    rows = {
        "my-instructions": {"prompt": "Who is it?", "response": "It is Ann."},
        "my-pairs": {"prompt": "Who is it?", "chosen": "It is Ann.", "rejected": "No."},
        "my-prompts": {"prompt": "Who is it?"},
    }
    for name, row in rows.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({**row, "prompt": f"{row['prompt']} {place}"}) + "\n" for place in range(96))
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, size in {**SIZES, **HELD_OUT}.items():
            patch.setattr(world, name, size)
        patch.setattr(summary, "REPLY_TOKENS", 16)
        stages = read_pipeline(ROOT / "configs" / "quickstart" / "pipeline.yaml").stages
        assert main(["quickstart", *dotted(stages)]) == 0
    return folder


def test_the_quickstart_leaves_what_the_readme_shows(folder):
    found = json.loads((folder / "runs/quickstart/summary.json").read_text())
    assert list(found["models"]) == ["base", "SFT", "PPO"]
    assert (folder / "runs/quickstart/summary.png").stat().st_size > 10_000
    assert "PPO: gold score against KL" in (folder / "runs/quickstart/report.html").read_text()
    for figures in found["models"].values():
        low, high = figures["gold_interval"]
        assert low - 1e-9 <= figures["gold"] <= high + 1e-9  # replies this short can all have the same score
    assert found["models"]["SFT"]["kl_to_sft"] == 0
    arena = json.loads((folder / "runs/quickstart/arena/arena.json").read_text())
    assert [model["name"] for model in arena["models"]] == ["base", "SFT", "PPO"]
    assert arena["data"]["prompts"]["kept"] == found["questions"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make ")])
def test_a_command_of_the_readme_runs(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where does Ada live?\n"))  # for a chat
    words = shlex.split(command)
    if words[0] == "python":
        assert subprocess.run([sys.executable, *words[1:]], capture_output=True, timeout=120).returncode == 0
        return
    assert words[0] == "hfkit"
    try:
        status = main(words[1:] if "--help" in words else shortened(words[1:]))
    except SystemExit as exit:  # --help
        status = exit.code
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_a_make_target_of_the_readme_is_there(command):
    shown = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert ".venv/bin/" in shown.stdout or "python3 benchmarks/" in shown.stdout  # the latter without .venv


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_of_the_readme_runs(snippet, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(snippet, "README.md", "exec"), {})


def test_the_tree_names_what_is_there():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, re.S).group(1)
    named = {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "hfkit").iterdir()
        if not path.name.startswith("__")
    }
    assert named == there
