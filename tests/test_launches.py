"""Stages in two processes: if one ends, the other ends too, after saving if possible, and the next launch resumes."""

import os
import re
import signal
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from events import Event, befall, befall_command
from interruption import assert_same_run
from processes import LIMIT, be_command, free_port, launch_command, start, wait
from signals import interrupt
from signals import start as start_command

import hfkit
from hfkit.core.errors import HfkitError
from hfkit.records.record import read_record, settings_of

pytestmark = pytest.mark.distributed
BIN = Path(sys.executable).parent
STEPS = {"max_steps": 4, "save_steps": 2, "save_total_limit": None, "logging_steps": 1}
CHANGES = {
    "pretrain": {**STEPS, "test_split_size": 16, "eval_strategy": "steps", "eval_steps": 2},
    "sft": {**STEPS, "test_split_size": 8, "eval_strategy": "steps", "eval_steps": 2, "lora_dropout": 0.1},
    "reward": {**STEPS, "test_split_size": 8, "eval_strategy": "steps", "eval_steps": 2},
    "ppo": {
        **{**STEPS, "max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 1, "test_split_size": 2},
        **{"gradient_accumulation_steps": 1, "num_mini_batches": 1, "eval_strategy": "steps", "eval_steps": 2},
        "per_device_eval_batch_size": 1,  # with two rows, both processes sample
    },
}
TRAINING = Event("transformers:Trainer.training_step", signal.SIGTERM, 3)
EVALUATION = Event("hfkit.training.interruption:SaveOnSignal.on_prediction_step", signal.SIGTERM, 2)
PUBLISHING = [
    Event("hfkit.training.run:Run._publish", signal.SIGTERM, ranks=(0,)),
    Event("hfkit.training.run:wait_for_everyone", signal.SIGTERM, 2),  # waits for the process that publishes
]
ROLLOUT = Event("hfkit.rlhf.rollout:Rollouts.sample", signal.SIGTERM, 2)
PPO_EVALUATION = Event("hfkit.rlhf.policy_evaluation:generate_replies", signal.SIGTERM, 1)
SAVING = Event("transformers:Trainer._save_rng_state", signal.SIGKILL, 2)
PREPARING = {
    "pretrain": Event("hfkit.stages.pretrain:pack_documents", hangs=True),
    "sft": Event("hfkit.stages.sft:encode_instructions", hangs=True),
    "reward": Event("hfkit.stages.reward:encode_comparisons", hangs=True),
    "ppo": Event("hfkit.stages.online:encode_prompts", hangs=True),
}


@pytest.fixture(scope="module")
def argv_of(config_of, tmp_path_factory):
    """argv_of(stage, output_dir) -> the command line of a short stage."""

    def make(stage: str, out: Path) -> list:
        settings = settings_of(config_of(stage, out, **CHANGES[stage]))
        file = tmp_path_factory.mktemp("configs") / f"{stage}.yaml"
        file.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
        return [stage, file, "--output_dir", out, "--resume_from_checkpoint"]

    return make


@pytest.fixture(scope="module")
def whole(argv_of, tmp_path_factory):
    """whole(stage) -> the folder of an uninterrupted run of two processes."""

    def run(stage: str) -> Path:
        out = tmp_path_factory.mktemp("whole") / stage
        succeed(argv_of(stage, out))
        return out

    return cache(run)


def succeed(argv: list, **options) -> None:
    ranks = launch_command(*argv, **options)
    assert [rank.status for rank in ranks] == [0, 0], [rank.output for rank in ranks]


@pytest.mark.parametrize(
    ("stage", "event"),
    [
        ("pretrain", TRAINING),
        ("sft", TRAINING),
        ("reward", TRAINING),
        ("sft", EVALUATION),
        ("reward", EVALUATION),
        ("ppo", ROLLOUT),
        ("ppo", PPO_EVALUATION),
    ],
    ids=lambda given: given if isinstance(given, str) else given.at.rpartition(":")[2],
)
@pytest.mark.parametrize("ranks", [(0,), (1,), (0, 1)], ids=str)
def test_a_signal_saves_the_step_in_both_and_the_resumed_run_ends_alike(argv_of, whole, tmp_path, stage, event, ranks):
    argv = argv_of(stage, tmp_path / stage)
    ended = befall_command(Event(event.at, event.do, event.call, ranks), *argv)
    assert ended.statuses == [143, 143], ended.output
    assert ended.output.count(f"{stage}: 2 processes (ddp)") == 1
    assert ended.output.count(f"hfkit {stage}: interrupted by SIGTERM; to resume (with the same launcher)") == 1
    assert "Traceback" not in ended.output
    record = read_record(tmp_path / stage)
    assert (record["status"], record["signal"]) == ("interrupted", "SIGTERM")
    succeed(argv)
    assert_same_run(tmp_path / stage, whole(stage))


@pytest.mark.parametrize(
    "at", ["hfkit.models.engines:GenerateEngine.sample", "hfkit.rlhf.policy_evaluation:generate_replies"]
)
def test_a_signal_drops_what_is_sampled_in_all_processes(argv_of, whole, tmp_path, at):
    argv = argv_of("ppo", tmp_path / "ppo")
    ended = befall_command(Event(at, signal.SIGTERM, 2, sleeps=2 * LIMIT), *argv)
    assert ended.statuses == [143, 143], ended.output
    succeed(argv)
    assert_same_run(tmp_path / "ppo", whole("ppo"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_other_signals_do_as_well(argv_of, whole, tmp_path, number):
    argv = argv_of("sft", tmp_path / "sft")
    ended = befall_command(Event(TRAINING.at, number, 3, (0,)), *argv)
    assert ended.statuses == [130 if number == signal.SIGINT else 143] * 2, ended.output
    succeed(argv)
    assert_same_run(tmp_path / "sft", whole("sft"))


@pytest.mark.parametrize("stage", PREPARING)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_a_process_in_data_preparation_ends_the_one_that_waits(argv_of, tmp_path, stage, number):
    event = PREPARING[stage]
    ended = befall_command(Event(event.at, number, ranks=(1,), hangs=True), *argv_of(stage, tmp_path / stage))
    if number == signal.SIGKILL:
        assert ended.statuses == [1, -signal.SIGKILL] and "hfkit: rank 1 (" in ended.outputs[0]
    else:
        assert ended.statuses == [143, 143]
    assert not (tmp_path / stage).exists()


@pytest.mark.parametrize("event", PUBLISHING, ids=["publishing", "waiting"])
def test_a_signal_at_the_end_loses_nothing(argv_of, whole, tmp_path, event):
    argv = argv_of("sft", tmp_path / "sft")
    ended = befall_command(event, *argv)
    assert ended.statuses == [143, 143], ended.output
    assert 0 not in event.ranks or read_record(tmp_path / "sft")["status"] == "done"  # the run is published first
    succeed(argv)
    assert_same_run(tmp_path / "sft", whole("sft"))


@pytest.mark.parametrize(
    ("stage", "event"),
    [
        ("pretrain", TRAINING),
        ("sft", TRAINING),
        ("sft", SAVING),
        ("reward", TRAINING),
        ("ppo", ROLLOUT),
        ("ppo", Event("hfkit.rlhf.checkpoint:save_random_state", call=2)),
    ],
    ids=lambda given: given if isinstance(given, str) else given.at.rpartition(":")[2],
)
@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_ends_the_other_and_the_next_launch_resumes(argv_of, whole, tmp_path, stage, event, dead):
    argv = argv_of(stage, tmp_path / stage)
    ended = befall_command(Event(event.at, signal.SIGKILL, event.call, (dead,)), *argv)
    assert (ended.statuses[dead], ended.statuses[1 - dead]) == (-signal.SIGKILL, 1)
    assert f"rank {dead} (" in ended.outputs[1 - dead] and "Traceback" not in ended.output
    succeed(argv)
    assert_same_run(tmp_path / stage, whole(stage))


@pytest.mark.parametrize("error", ["torch:OutOfMemoryError", "builtins:RuntimeError"])
def test_an_error_of_one_process_is_the_one_that_is_seen(argv_of, whole, tmp_path, error):
    argv = argv_of("sft", tmp_path / "sft")
    ended = befall_command(Event(TRAINING.at, error, 3), *argv)
    assert ended.statuses == [1, 1]
    expected = "the GPU is out of memory" if "Memory" in error else "RuntimeError: of the test"
    assert "rank 1 (" in ended.outputs[0] and expected in ended.outputs[0]
    assert "Traceback" not in ended.outputs[0]
    assert ("Traceback" in ended.outputs[1]) == ("Memory" not in error)  # a traceback, unless it is a user's mistake
    succeed(argv)
    assert_same_run(tmp_path / "sft", whole("sft"))


@pytest.mark.parametrize(
    "event", [TRAINING, Event(TRAINING.at, signal.SIGKILL, 4), SAVING], ids=["signal", "kill", "save"]
)
def test_what_fsdp_shards_ends_and_resumes_as_well(argv_of, tmp_path, event):
    succeed(argv_of("pretrain", tmp_path / "whole"), engine="fsdp2")
    argv = argv_of("pretrain", tmp_path / "out")
    ended = befall_command(event, *argv, engine="fsdp2")
    killed = event.do == signal.SIGKILL
    assert ended.statuses == ([1, -signal.SIGKILL] if killed else [143, 143]), ended.output
    assert ("rank 1 (" in ended.outputs[0]) == killed
    succeed(argv, engine="fsdp2")
    assert_same_run(tmp_path / "out", tmp_path / "whole")


def be_script(config: dict) -> None:
    """Be a script that runs a stage from Python twice."""
    try:
        for number in range(2):
            hfkit.sft(config, output_dir=f"{config['output_dir']}-{number}")
    except HfkitError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit(7)


@pytest.mark.parametrize("call", [3, 7])
def test_python_code_gets_the_error_of_the_other_process(config_of, tmp_path, call):
    config = settings_of(config_of("sft", tmp_path, **CHANGES["sft"])) | {"output_dir": str(tmp_path / "sft")}
    given = {key: value for key, value in config.items() if value is not None}
    ended = befall(Event(TRAINING.at, signal.SIGKILL, call), be_script, given)
    assert ended.statuses == [7, -signal.SIGKILL]
    assert "PeerError rank 1 (" in ended.outputs[0]


def be_command_with(folder: Path, argv: list, *own: list[str]) -> None:
    """Be the command in a folder of this process, with more arguments."""
    rank = int(os.environ["RANK"])
    os.chdir(folder / str(rank))
    be_command([*map(str, argv), *own[rank]])


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([["--seed", "1"], ["--seed", "2"]], "  seed: 2 -> on rank 1 ("),
        ([[], ["--learning_rate", "fast"]], "  --learning_rate: 'fast' -> expected number"),
        ([[], []], "  datasets (their rows): '"),
    ],
    ids=["config", "problem", "rows"],
)
def test_processes_that_start_differently_do_not_train(argv_of, data, tmp_path, own, expected):
    rows = (data / "turns.jsonl").read_text().splitlines(keepends=True)
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "rows.jsonl").write_text("".join(rows[rank:]))
    argv = [*argv_of("sft", tmp_path / "out"), "--datasets", '[{"path": "rows.jsonl"}]']
    ranks = wait(start(be_command_with, tmp_path, argv, *own))
    assert [rank.status for rank in ranks] == [2, 2], [rank.output for rank in ranks]
    assert expected in ranks[0].output and "hfkit sft" not in ranks[1].output
    assert not (tmp_path / "out").exists()


def test_the_page_of_a_launcher_ends_with_the_reason(argv_of, tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    launcher = [BIN / "torchrun", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    variables = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    command = start_command(argv_of("sft", tmp_path / "sft"), tmp_path, [*launcher, tmp_path / "fails.py"], **variables)
    ended = interrupt(command, when=lambda: False)
    assert (ended.status, ended.orphans) == (1, [])
    root = ended.output.partition("Root Cause")[2]
    assert "rank      : 1 " in root and "traceback : the GPU is out of memory: lower per_device_train" in root
    assert re.search(r"^hfkit sft: rank 1 \(.*\) ended: the GPU is out of memory: .*; to resume", ended.output, re.M)


FAILS = """
import os, sys
import torch, transformers
from hfkit.cli import main

def training_step(*given, **options):
    if os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError
    return own(*given, **options)

own, transformers.Trainer.training_step = transformers.Trainer.training_step, training_step
sys.exit(main())
"""
