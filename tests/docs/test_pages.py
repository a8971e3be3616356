"""The pages of the documentation tell the truth: what they show runs from top to bottom, in the reader's folder.

A bash block is one command a line, a block with a title is a file, `<!-- not run: REASON -->` before a block skips it.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import python_path

from docs.blocks import ROOT, Block, find_pages, read_blocks, write_file
from docs.commands import FILE_TOOLS, PROGRAMS, Command, check_command, check_yaml, read_commands, shorten
from hfkit.cli import main
from hfkit.core.errors import ConfigError

PAGES = [page.relative_to(ROOT).as_posix() for page in find_pages()]


@pytest.mark.docs
def test_the_quickstart_leaves_what_the_readme_shows(quickstart_folder):
    runs = quickstart_folder / "runs" / "quickstart"
    found = json.loads((runs / "summary.json").read_text())
    assert list(found["models"]) == ["base", "SFT", "PPO"]
    assert (runs / "summary.png").stat().st_size > 10_000
    assert "PPO: gold score against KL" in (runs / "report.html").read_text()
    for figures in found["models"].values():
        low, high = figures["gold_interval"]
        assert low - 1e-9 <= figures["gold"] <= high + 1e-9  # replies this short can all have the same score
    assert found["models"]["SFT"]["kl_to_sft"] == 0
    arena = json.loads((runs / "arena" / "arena.json").read_text())
    assert [model["name"] for model in arena["models"]] == ["base", "SFT", "PPO"]
    assert arena["data"]["prompts"]["kept"] == found["questions"]


@pytest.mark.docs
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page, folder, monkeypatch, capfd):
    namespace = {"__name__": "__main__"}
    for block in read_blocks(ROOT / page):
        if block.reason is None:
            run_block(block, page, namespace, monkeypatch, capfd)


def run_block(block: Block, page: str, namespace: dict, monkeypatch, capfd) -> None:
    """Write a block to its file, or run it."""
    if block.title:
        write_file(block, Path())
        if Path(block.title).suffix in (".yaml", ".yml"):
            check_yaml(Path(block.title))
    elif block.language == "python":
        with failure(f"{page}:{block.line}: python block", capfd):
            exec(compile(block.text, f"{page}:{block.line}", "exec"), namespace)
    elif block.is_commands:
        for command in read_commands(block.text, block.line):
            with failure(f"{page}:{command.line}: {command.text}", capfd):
                run_command(command, monkeypatch)


class failure:
    """A context that turns an error into a failure which names the command and shows its output."""

    def __init__(self, name: str, capfd):
        self.name, self.capfd = name, capfd

    def __enter__(self):
        self.capfd.readouterr()

    def __exit__(self, kind, error, trace):
        if error is not None and not isinstance(error, KeyboardInterrupt):
            printed = self.capfd.readouterr()
            pytest.fail(f"{self.name}\n{printed.out[-6000:]}\n{printed.err[-6000:]}\n{kind.__name__}: {error}")


def run_command(command: Command, monkeypatch) -> None:
    """Run a command that hfkit, Python or a tool for files runs; raise RuntimeError if it fails."""
    if command.words[0] == "cd":
        return monkeypatch.chdir(command.words[1])
    words = command.hfkit_words
    if command.words[0] == "hfkit":
        with pytest.MonkeyPatch.context() as patch:
            for name, value in command.environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO("Where does Ada live?\n"))  # for a chat
            status = run_main(shorten(words))
    elif command.words[0] == "python":
        after = [sys.executable, *command.words[1:]]
        if words:
            at = len(command.words) - len(words) + (command.words[-len(words)] == words[0])
            after = [sys.executable, *command.words[1:at], *shorten(words)[1:]]
        env = os.environ | {"PYTHONPATH": python_path(ROOT)} | command.environment
        status = subprocess.run(after, env=env, timeout=600).returncode
    elif command.words[0] in FILE_TOOLS:
        status = subprocess.run(command.words, timeout=60).returncode
    else:
        return None
    if status != 0:
        raise RuntimeError(f"exit status {status}")


def run_main(words: list[str]) -> int:
    """Run hfkit and return its exit status."""
    try:
        return main(words)
    except SystemExit as exit:  # --help
        return exit.code or 0


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_parses(page, folder_without_runs, capsys):
    """Also blocks that are not run: verbs, flags, YAML and Python are right."""
    problems = []
    for block in read_blocks(ROOT / page):
        if block.reason == "":
            problems.append(f"{page}:{block.line}: say why the block is not run")
        if block.title:
            write_file(block, folder_without_runs)
        problems += [f"{page}:{problem}" for problem in block_problems(block)]
    assert problems == [], "\n".join([*problems, capsys.readouterr().err])


def block_problems(block: Block) -> list[str]:
    """Return what is wrong in a block, with its line."""
    is_run = block.is_commands and block.reason is None
    try:
        if block.language in ("yaml", "yml"):
            list(yaml.safe_load_all(block.text))
            if block.title and block.reason is None:
                check_yaml(Path(block.title))
        elif block.language == "python":
            compile(block.text, str(block.line), "exec")
        elif block.language == "json" and not block.title.endswith(".jsonl"):
            [json.loads(line) for line in block.text.splitlines()] if "\n{" in block.text else json.loads(block.text)
        elif block.language == "bash":
            return [found for command in commands_of(block) for found in command_problems(command, is_run)]
    except (ConfigError, ValueError, SyntaxError, yaml.YAMLError) as error:
        return [f"{block.line}: {error}"]
    return []


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a block; a script that is not run may have commands of several lines."""
    try:
        return read_commands(block.text, block.line)
    except ValueError:  # quotes over several lines
        if block.is_commands and block.reason is None:
            raise
        return []


def command_problems(command: Command, is_run: bool) -> list[str]:
    """Return what is wrong in a command."""
    program, words = command.words[0], command.hfkit_words
    try:
        if words:
            check_command(words)
        elif program == "make":
            found = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True)
            return [f"{command.line}: {command.text}: {found.stderr}"] if found.returncode else []
        elif is_run and program not in {"hfkit", "python", "cd", "export", *FILE_TOOLS, *PROGRAMS}:
            return [f"{command.line}: {program}: no program of PROGRAMS in tests/docs/commands.py"]
    except (ConfigError, SystemExit) as error:
        return [f"{command.line}: {command.text}: {error}"]
    return []
