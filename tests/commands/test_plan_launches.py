"""`hfkit plan --processes N --engine E`: what is printed, what is refused, and which launch it recommends."""

import json
import re

import pytest
import yaml
from planned import LLAMA, ROWS

from hfkit import cli
from hfkit.commands.arguments import ARGUMENTS
from hfkit.training.memory.processes import LAUNCH_ENGINES

LARGE = {**LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "dtype": "bfloat16"}
"""250 million parameters."""
FUNCTIONS = {"stage": "ppo", "reward_functions": ["reward_functions:length"], "max_prompt_length": 128}


@pytest.fixture
def plan(folder_of, tmp_path, capsys):
    """plan(*words, status=0, stage="sft", shape=LLAMA, **settings): what is printed of a config."""

    def shown(*words: str, status: int = 0, stage: str = "sft", shape: dict = LLAMA, **settings) -> str:
        rows = tmp_path / f"{stage}.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[stage]))
        settings |= {"datasets": [{"path": str(rows)}], "model_name_or_path": folder_of(shape, weights=False)}
        file = tmp_path / f"{stage}.yaml"
        file.write_text(yaml.safe_dump(settings))
        assert cli.main(["plan", str(file), *words]) == status
        printed = capsys.readouterr()
        return " ".join((printed.err if status == 2 else printed.out).split())

    return shown


def test_the_engines_that_are_planned_are_those_that_it_takes():
    (choices,) = (options["choices"] for names, _, options in ARGUMENTS["plan"] if "--engine" in names)
    assert {*choices} == {*LAUNCH_ENGINES}


@pytest.mark.slow
def test_each_process_has_its_part_of_the_rows_and_of_the_memory(plan):
    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 2.0, "max_length": 64}
    alone, two = plan("--memory", "64", **settings), plan("--memory", "64", "--processes", "2", **settings)
    assert "Memory, of 64.0 GB" in alone and "sent by" not in alone
    assert "Memory of each of 2 processes (ddp), of 32.0 GB (--memory, by 2 processes)" in two
    assert (
        "sft: 8 rows in a step, 4 in each process; peaks of its phases: loss" in two and "rows in a step" not in alone
    )
    steps = [int(re.search(r"│ sft │ (\d+) │", text)[1]) for text in (alone, two)]
    assert steps == [2 * 32 // 4, 2 * 32 // 8]
    assert "Memory of each of 2 processes (fsdp2), of 40.0 GB (a GPU)" in plan(
        "--gpu", "40", "--processes", "2", "--engine", "fsdp2", **settings
    )


@pytest.mark.slow
def test_a_launch_in_which_the_stage_fits_is_recommended_and_fits(plan):
    settings = {"shape": LARGE, "max_length": 512, "per_device_train_batch_size": 1}
    shown = plan("--gpu", "2", "--processes", "2", status=1, **settings)
    processes, engine = re.search(
        r"--processes (\d+) --engine (\w+): [\d.]+ GB in each process, it fits", shown
    ).groups()
    plan("--gpu", "2", "--processes", processes, "--engine", engine, **settings)
    plan("--gpu", "2", "--processes", str(int(processes) // 2), "--engine", engine, status=1, **settings)


def test_a_launch_keeps_the_processes_that_are_planned_if_an_engine_fits(plan):
    settings = {"shape": LARGE, "max_length": 512, "per_device_train_batch_size": 1}
    fewest = int(re.search(r"--processes (\d+) --engine", plan("--gpu", "2", status=1, **settings))[1])
    assert fewest < 16
    assert "--processes 16 --engine" in plan("--gpu", "2", "--processes", "16", status=1, **settings)


@pytest.mark.slow
def test_a_peak_that_just_fits_is_reported_with_the_flags_that_leave_more(plan):
    settings = {"max_length": 512, "per_device_train_batch_size": 8, "use_peft": True, "gradient_checkpointing": False}
    peak = float(re.search(r"│ ([\d.]+) MB │ \w+ │", plan("--gpu", "64", **settings))[1])
    shown = plan("--gpu", str(peak / 1000 / 0.95), **settings)
    assert "sft just fits: its peak of " in shown and "is 95% of" in shown
    assert "--per_device_train_batch_size 4 --gradient_accumulation_steps 2" in shown
    assert "just fits" not in plan("--gpu", str(peak / 1000 / 0.85), **settings)


@pytest.mark.parametrize(
    ("words", "settings", "expected"),
    [
        (["--engine", "fsdp2"], {}, "--processes: missing -> fsdp2 is for several processes: set --processes N"),
        (["--processes", "4", "--nodes", "3"], {}, "--nodes: 3 -> 4 processes cannot be divided among these"),
        (
            ["--processes", "2", "--engine", "fsdp2"],
            {"use_peft": True, "load_in_8bit": True, "dtype": "float32", "max_length": 64},
            "load_in_8bit: True -> FSDP2 cannot shard 8-bit weights",
        ),
        (
            ["--processes", "2", "--engine", "fsdp2"],
            {**FUNCTIONS, "use_peft": True},
            "--engine: 'fsdp2' -> PPO samples from whole weights and does not shard a frozen base",
        ),
        (
            ["--processes", "2", "--engine", "zero2"],
            FUNCTIONS,
            "--engine: 'zero2' -> PPO updates its models itself, so DeepSpeed would train nothing",
        ),
    ],
)
def test_what_an_engine_cannot_train_is_refused(plan, words, settings, expected):
    assert expected in plan(*words, status=2, **settings)


@pytest.mark.slow
def test_an_engine_that_cannot_train_the_stage_is_not_recommended(plan):
    settings = {"shape": LARGE, "use_peft": True, "per_device_train_batch_size": 1, **FUNCTIONS}
    shown = plan("--gpu", "1", status=1, **settings)
    assert "ppo does not fit" in shown and "--engine" not in shown
