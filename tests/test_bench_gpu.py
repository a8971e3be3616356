"""The plan of `make bench-gpu`, with tiny models on the CPU."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import psutil
import pytest
from conftest import python_path
from forks import HFKIT, Fork

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PLENTY = ("--budget", "100000")  # a busy machine takes longer than a GPU
PLAN = """
import signal, sys
import gpu

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it
row = gpu.Row("a row", 1, ("-c", sys.argv.pop()))
gpu.plan = lambda asked, folder: [row]
gpu.main()
"""
ROW = """
import subprocess, time

for is_leader in (False, True):
    subprocess.Popen(["sleep", "600"], start_new_session=is_leader)
time.sleep(600)
"""


def bench(folder: Path, *options: str) -> tuple[int, dict]:
    """Return the exit status of the command, and its record."""
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", *options]
    command += ["--records", str(folder / "records"), "--work", str(folder / "work")]
    variables = {**os.environ, "PYTHONPATH": python_path(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert (folder / "records" / "cpu" / "gpu.json").is_file(), ran.stderr
    return ran.returncode, record_in(folder / "records" / "cpu")


def record_in(folder: Path) -> dict:
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda script: script.stem)
def test_what_a_script_imports_from_hfkit_exists(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hfkit"):
            module, names = import_module(node.module), [one.name for one in node.names]
            missing = [name for name in names if not hasattr(module, name)]
            assert not [name for name in missing if find_spec(f"{node.module}.{name}") is None]


@pytest.mark.slow
def test_without_time_every_row_is_left_out(tmp_path):
    status, record = bench(tmp_path, "--budget", "0")
    assert (status, record["rows"]) == (0, {})
    assert {"tests of the GPU", "sft 8B 4bit", "ppo 1B bf16"} <= {*record["left_out"]}


def test_a_row_that_time_runs_out_for_is_run_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu = import_module("gpu")
    asked = Namespace(device="cpu", work=tmp_path, model=None)
    slow, quick = (gpu.Row("a row", 1, ("-c", f"import time; time.sleep({seconds})")) for seconds in (60, 0))
    assert not gpu.work_off([slow], tmp_path, asked, time.monotonic() + 1)
    assert record_in(tmp_path)["rows"]["a row"]["status"] == "out of time"
    assert gpu.work_off([quick], tmp_path, asked, time.monotonic() + 60)
    assert record_in(tmp_path)["rows"]["a row"]["status"] == "done"


def test_a_model_is_made_only_if_there_is_time_to_use_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu = import_module("gpu")
    asked = Namespace(device="cuda", work=tmp_path, model=None)
    make = gpu.Row("make 1B", 1, ("-c", f"import os; os.mkdir({str(tmp_path / '1B')!r})"))
    use = gpu.Row("a row", 60, ("-c", ""), needs="1B")
    assert gpu.work_off([make, use], tmp_path, asked, time.monotonic() + 30)
    assert record_in(tmp_path)["left_out"] == ["make 1B", "a row"]
    assert gpu.work_off([make, use], tmp_path, asked, time.monotonic() + 90)
    assert [*record_in(tmp_path)["rows"]] == ["make 1B", "a row"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "started"), [*product(SIGNALS, (1, 3))])
def test_a_signal_ends_the_row_with_all_its_processes(number, started, tmp_path):
    """Some processes of tests are in their own sessions.

    Args:
        started: how many processes run when the signal arrives.
    """
    options = ["--device", "cpu", "--records", tmp_path / "records", "--work", tmp_path / "work"]
    variables = {**os.environ, "PYTHONPATH": python_path(ROOT / "benchmarks", ROOT)}
    bench = Fork(PLAN, *options, ROW, cwd=tmp_path, env=variables, level=HFKIT)
    latest, running = time.monotonic() + 60, []
    while len(running) < started and bench.poll() is None and time.monotonic() < latest:
        time.sleep(0.001)
        running = psutil.Process(bench.pid).children(recursive=True)
    assert len(running) >= started
    os.kill(bench.pid, number)
    try:
        assert bench.wait(60) == 128 + number
        assert psutil.wait_procs(running, timeout=60)[1] == []
    finally:
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
@pytest.mark.timeout(9000)  # dozens of processes, one after the other, beside other load
def test_the_plan_runs_to_its_end_and_no_row_is_run_twice(tmp_path):
    status, record = bench(tmp_path, *PLENTY)
    assert (status, record["left_out"]) == (0, [])
    assert {row["status"] for row in record["rows"].values()} == {"done"}
    assert record["rows"]["sft 135M float32"]["check"]["largest_weight_difference"] < 1e-5
    assert {"hfkit_over_bare", "medians"} <= {*record["rows"]["pretrain 1B bf16"]}
    assert record["rows"]["ppo 1B bf16"]["speed"]["hfkit_over_trl"] > 0
    assert bench(tmp_path, *PLENTY) == (0, record)
