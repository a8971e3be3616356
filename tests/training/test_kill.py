"""kill -9 at any moment loses nothing: the run goes on to the weights of an undisturbed one.

Processes are forked from a server that has the libraries loaded, so that a kill costs no import.
"""

import random
import time
from importlib import import_module
from pathlib import Path

import pytest
from interruption import assert_same_run
from processes import begin

from hfkit.records.record import read_record

STAGES = ["pretrain", "sft", "reward", "dpo"]
CHANGES = {
    "save_steps": 2,
    "max_steps": 12,
    "save_total_limit": 2,
    "test_split_size": 8,
    "resume_from_checkpoint": True,
}


def train(stage: str, config) -> None:
    import_module(f"hfkit.stages.{stage}").main(config)


@pytest.fixture(scope="module")
def start(config_of, tokenizer_dir, sft_dir):
    """start(stage, folder) -> the process that runs it."""
    return lambda stage, folder: begin(train, stage, config_of(stage, folder, **CHANGES))


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """The folder of a stage that nothing happened to, and the seconds that it took."""
    made = {}

    def make(stage: str) -> tuple[Path, float]:
        if stage not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / stage
            started = time.time()
            finish(start(stage, folder))
            made[stage] = folder, time.time() - started
        return made[stage]

    return make


def finish(process) -> None:
    assert process.wait(timeout=120) == 0


def check(start, stage: str, folder: Path, whole: Path) -> None:
    finish(start(stage, folder))
    assert_same_run(folder, whole)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def kill_in_a_save(process, folder: Path, checkpoint: str) -> None:
    while not (folder / checkpoint).exists() and process.poll() is None:
        time.sleep(0.0005)
    process.kill()


@pytest.mark.any_device
def test_killed_in_a_save_sft_goes_on_to_the_same_weights(start, undisturbed, tmp_path):
    folder, (whole, _) = tmp_path / "sft", undisturbed("sft")
    kill_in_a_save(start("sft", folder), folder, "checkpoint-6")
    assert read_record(folder)["status"] == "running"
    check(start, "sft", folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_killed_at_a_random_moment_a_run_goes_on_to_the_same_weights(start, undisturbed, tmp_path, number):
    moment = random.Random(number)
    stage = STAGES[number % len(STAGES)]
    folder, (whole, seconds) = tmp_path / stage, undisturbed(stage)
    for _ in range(2):  # twice over: a run that went on is killed as well
        process = start(stage, folder)
        time.sleep(moment.uniform(0.1, seconds))
        process.kill()
    check(start, stage, folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [2, 4, 12])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_within_a_save_a_run_goes_on_to_the_same_weights(start, undisturbed, tmp_path, stage, checkpoint):
    folder, (whole, _) = tmp_path / stage, undisturbed(stage)
    kill_in_a_save(start(stage, folder), folder, f"checkpoint-{checkpoint}")
    check(start, stage, folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [".publishing", ".publishing/adapter_model.safetensors", "adapter_model.safetensors", "loss.png"]
)
def test_killed_while_it_publishes_a_run_is_published_again(start, undisturbed, tmp_path, file):
    folder, (whole, _) = tmp_path / "sft", undisturbed("sft")
    process = start("sft", folder)
    while not (folder / file).exists() and process.poll() is None:
        time.sleep(0.0005)
    process.kill()
    check(start, "sft", folder, whole)
