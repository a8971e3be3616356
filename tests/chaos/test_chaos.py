"""make test-chaos: verbs are killed at random moments, on a busy machine; the same command completes their work.

The result is that of an undisturbed run: the same weights and figures, and no other file. Nothing keeps running.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from forked_commands import Commands, Ran
from interruption import assert_same_run
from pipelines import write_pipeline

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SIGNALS = {signal.SIGKILL: (), signal.SIGTERM: (143,), signal.SIGINT: (130,)}
"""The statuses that a command itself ends with; a signal that comes before hfkit listens ends it as the system does."""
SEQUENCES = 3
"""Sequences of three kills, one by each signal, for each verb."""
SECONDS = 120
SAVING = {"max_steps": 12, "save_steps": 1, "save_total_limit": 2, "resume_from_checkpoint": True}
TIMES = ("seconds", "created", "started", "finished", "time", "per_second")


@dataclass
class Work:
    """What a verb does.

    Attributes:
        argv: the command; it runs in a separate folder.
        same: asserts that two of its results are the same.
        given: folders that are copied to where it runs, by the names that they get.
    """

    argv: list
    same: Callable[[Path, Path], None]
    given: dict[str, Path] = field(default_factory=dict)


@pytest.fixture(scope="module")
def commands():
    with Commands() as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def load():
    """Keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        yield
        busy.kill()


@pytest.fixture(scope="module")
def works(data, tmp_path_factory, tokenizer_dir, base_dir, sft_dir, reward_dir, ppo_dir) -> dict[str, Work]:
    """The work of every verb that writes."""
    folder = tmp_path_factory.mktemp("works")
    folders = {"tokenizer_dir": tokenizer_dir, "base_dir": base_dir, "sft_dir": sft_dir, "reward_dir": reward_dir}

    def stage(name: str, **changes) -> Work:
        rows, settings, inputs = TINY[name]
        saving = {"ppo": {"save_steps": 1, "resume_from_checkpoint": True}, "tokenizer": {}}.get(name, SAVING)
        values = {"datasets": [{"path": str(data / f"{rows}.jsonl")}], **settings, **saving, **changes}
        values |= {key: str(folders[fixture]) for key, fixture in inputs.items()}
        path = folder / f"{name}{len(changes)}.yaml"
        path.write_text(yaml.safe_dump(values))
        return Work([name, path, "--output_dir", "out"], same_tokenizer if name == "tokenizer" else assert_same_run)

    pipeline = write_pipeline(folder, data, ("tokenizer", "pretrain", "sft"), pretrain=SAVING, sft=SAVING)
    sampled = ["--response_length", 8, "--output_dir", "out"]
    judge = ["--prompts", data / "prompts.jsonl", "--judge", "reward", "--reward_model", reward_dir]
    judge.append("--allow_training_judge")
    return {
        "tokenizer": stage("tokenizer"),
        "pretrain": stage("pretrain"),
        "sft": stage("sft"),
        "sft in two processes of data": stage("sft", dataset_num_proc=2),
        "reward": stage("reward"),
        "ppo": stage("ppo"),
        "run": Work(["run", pipeline, "--output_dir", "out"], same_pipeline),
        "merge": Work(["merge", sft_dir, "out"], same_weights),
        "export": Work(["export", ppo_dir, "out", "--format", "vllm"], same_weights),
        "evaluate": Work(["evaluate", ppo_dir, "--against", sft_dir, *sampled], same_figures),
        "arena": Work(["arena", sft_dir, ppo_dir, *judge, *sampled], same_figures),
        "report": Work(["report", "out"], same_page, {"out": ppo_dir}),
    }


NAMES = (
    *("tokenizer", "pretrain", "sft", "sft in two processes of data", "reward", "ppo"),
    *("run", "merge", "export", "evaluate", "arena", "report"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_verb_that_is_killed_completes_its_work(name, works, commands, tmp_path):
    work, chance = works[name], random.Random(f"{os.environ.get('CHAOS_SEED', 0)} {name}")
    whole = prepared(work, tmp_path / "whole")
    undisturbed = run(commands, work, whole)
    assert undisturbed.status == 0, undisturbed.output
    for sequence in range(SEQUENCES):
        folder = prepared(work, tmp_path / str(sequence))
        for number in chance.sample([*SIGNALS], len(SIGNALS)):
            after, to_group = chance.uniform(0, undisturbed.seconds), chance.random() < 0.5
            ran = run(commands, work, folder, signal=number, after=after, to_group=to_group)
            reported = f"{number} after {after:.2f} s of {undisturbed.seconds:.2f}: {ran}"
            assert ran.status in (-number, *SIGNALS[number], 0), reported
            assert "Traceback" not in ran.output and not ran.orphans and ran.seconds < 30, reported
        ran = run(commands, work, folder)
        assert ran.status == 0, ran.output
        work.same(folder / "out", whole / "out")
        assert files(folder / "out") == files(whole / "out")


def prepared(work: Work, folder: Path) -> Path:
    """Return a folder to run a command in."""
    folder.mkdir()
    for name, given in work.given.items():
        shutil.copytree(given, folder / name)
    return folder


def run(commands: Commands, work: Work, folder: Path, **signaled) -> Ran:
    return commands.run(*work.argv, folder=folder, output=folder / "printed", seconds=SECONDS, **signaled)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def same_tokenizer(one: Path, other: Path) -> None:
    assert (one / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def same_pipeline(one: Path, other: Path) -> None:
    same_tokenizer(one / "tokenizer", other / "tokenizer")
    for stage in ("pretrain", "sft"):
        assert_same_run(one / stage, other / stage)


def same_weights(one: Path, other: Path) -> None:
    hashes = [{p.name: sha256(p.read_bytes()).hexdigest() for p in f.glob("*.safetensors")} for f in (one, other)]
    assert hashes[0] == hashes[1] != {}


def same_figures(one: Path, other: Path) -> None:
    """The JSON files are equal except for times."""
    for path in other.glob("*.json"):
        assert without_times(json.loads((one / path.name).read_text())) == without_times(json.loads(path.read_text()))


def without_times(found):
    if isinstance(found, dict):
        return {name: without_times(value) for name, value in found.items() if not name.endswith(TIMES)}
    return [*map(without_times, found)] if isinstance(found, list) else found


def same_page(one: Path, other: Path) -> None:
    pages = ((folder / "report.html").read_text().replace(str(folder), "out") for folder in (one, other))
    assert next(pages) == next(pages)
