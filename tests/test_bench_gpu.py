"""The plan of `make bench-gpu`, with tiny models on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def bench(folder: Path, *options: str) -> tuple[int, dict]:
    """The exit status of the command, and its record."""
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", *options]
    command += ["--records", str(folder / "records"), "--work", str(folder / "work")]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert (folder / "records" / "cpu" / "gpu.json").is_file(), ran.stderr
    return ran.returncode, json.loads((folder / "records" / "cpu" / "gpu.json").read_text())


@pytest.mark.slow
def test_without_time_every_row_is_left_out(tmp_path):
    status, record = bench(tmp_path, "--budget", "0")
    assert (status, record["rows"]) == (0, {})
    assert {"tests of the GPU", "sft 8B 4bit", "ppo 1B"} <= {*record["left_out"]}


@pytest.mark.slow
def test_a_row_that_time_runs_out_for_is_run_again(tmp_path):
    _, record = bench(tmp_path, "--budget", "2", "--only", "no row")  # less than an import of torch takes
    assert record["rows"]["make 135M"]["status"] == "out of time"
    _, record = bench(tmp_path, "--only", "no row")
    assert {row["status"] for row in record["rows"].values()} == {"done"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_plan_runs_to_its_end_and_no_row_is_run_twice(tmp_path):
    status, record = bench(tmp_path)
    assert (status, record["left_out"]) == (0, [])
    assert {row["status"] for row in record["rows"].values()} == {"done"}
    assert record["rows"]["sft 135M float32"]["check"]["largest_weight_difference"] < 1e-5
    assert {"hfkit_over_bare", "medians"} <= {*record["rows"]["pretrain 1B bf16"]}
    assert record["rows"]["ppo 1B"]["speed"]["hfkit_over_trl"] > 0
    assert bench(tmp_path) == (0, record)
