"""Signals to real commands: their output and exit status, and that no work is lost and no process is left."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from pipelines import STAGES, write_pipeline
from processes import free_port
from signals import ROOT, interrupt, start

from hfkit.data.caching import SIZES_FILE
from hfkit.records.metrics_file import METRICS
from hfkit.records.record import read_record
from hfkit.training.checkpoints import last_complete_checkpoint

pytestmark = pytest.mark.slow
LONG = {"max_steps": 400, "save_steps": 1000, "logging_steps": 1}
BIN = Path(sys.executable).parent


def flags(config: dict) -> list[str]:
    return [word for key, value in config.items() for word in (f"--{key}", as_flag(value))]


def as_flag(value) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def training(folder: Path, steps: int = 2):
    """Return a condition: the run in a folder has logged some steps."""

    def reached() -> bool:
        file = folder / METRICS
        return file.is_file() and len(file.read_text().splitlines()) > steps

    return reached


def sft_flags(data: Path, model: Path, out: Path, **changes) -> list[str]:
    config = {"datasets": [{"path": str(data / "turns.jsonl")}], "model_name_or_path": str(model)}
    return [
        "sft",
        *flags({**config, "output_dir": str(out), "max_length": 64, "lora_r": 4} | LONG | changes),
        "--use_peft",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_run_is_saved_and_resumed_with_the_printed_command(data, base_dir, tmp_path, number):
    out = tmp_path / "out"
    command = start(sft_flags(data, base_dir, out, max_steps=100), tmp_path)
    ended = interrupt(command, number, when=training(out), to_all=True, watched=[out])
    assert (ended.status, ended.orphans, ended.leftovers) == (130 if number == signal.SIGINT else 143, [], [])
    assert "Traceback" not in ended.output
    assert read_record(out)["status"] == "interrupted"
    assert last_complete_checkpoint(out) is not None
    resume = ended.output.splitlines()[-1].partition("to resume: hfkit ")[2]
    assert resume.endswith(" --resume_from_checkpoint")
    subprocess.run(
        f"{sys.executable} -m hfkit.cli {resume}",
        shell=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert read_record(out)["status"] == "done"
    assert read_record(out)["resumed_from"].startswith("checkpoint-")


@pytest.mark.parametrize("whom", ["launcher", "one", "all"])
def test_the_processes_of_a_launch_save_once_and_all_leave(data, base_dir, tmp_path, whom):
    out = tmp_path / "out"
    launcher = [BIN / "torchrun", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    env = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    command = start(sft_flags(data, base_dir, out), tmp_path, [*map(str, launcher), "-m", "hfkit.cli"], **env)
    if whom == "one":
        reached = training(out)

        def when() -> bool:
            if reached():
                second = next(
                    one for one in psutil.Process(command.process.pid).children() if one.environ()["RANK"] == "1"
                )
                second.send_signal(signal.SIGTERM)
                command.process.wait(60)
            return False
    else:
        when = training(out)
    ended = interrupt(command, signal.SIGTERM, when=when, to_all=whom == "all")
    print(ended.output)
    assert ended.status != 0 and ended.orphans == []
    assert read_record(out)["status"] == "interrupted"
    saved = [path.name for path in out.glob("checkpoint-*")]
    assert saved == [last_complete_checkpoint(out).name]
    assert ended.output.count("hfkit sft: interrupted by SIGTERM; to resume (with the same launcher): hfkit sft") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [True, False])
def test_processes_that_tokenize_end_with_the_command(base_dir, tmp_path, number, to_all):
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as stream:
        for index in range(40_000):
            stream.write(
                json.dumps({"prompt": f"What does {index} like?" * 5, "response": f"{index} likes red. " * 10}) + "\n"
            )
    changes = {"datasets": [{"path": str(rows)}], "dataset_num_proc": 2}
    command = start(
        sft_flags(tmp_path, base_dir, tmp_path / "out", **changes), tmp_path, HF_HOME=str(tmp_path / "home")
    )
    ended = interrupt(command, number, when=lambda: len(command.alive()) >= 4, to_all=to_all)
    assert (ended.status, ended.orphans) == (128 + number, [])
    assert "Traceback" not in ended.output
    assert not [*(tmp_path / "home").rglob(SIZES_FILE)]  # the rows were not finished first
    assert not (tmp_path / "out").exists()


def test_a_pipeline_resumes_where_a_signal_interrupted_it(data, tmp_path):
    pipeline = write_pipeline(tmp_path, data, reward={**LONG, "max_steps": 60})
    command = start(["run", pipeline], tmp_path)
    out = tmp_path / "runs" / "reward"
    ended = interrupt(command, when=training(out), to_all=True, watched=[tmp_path / "runs"])
    assert (ended.status, ended.orphans, ended.leftovers) == (143, [], [])
    assert f"hfkit run: interrupted by SIGTERM; to resume: hfkit run {pipeline}" in ended.output
    assert read_record(out)["status"] == "interrupted" and not (tmp_path / "runs" / "ppo").exists()
    again = interrupt(start(["run", pipeline], tmp_path), when=lambda: False)
    assert again.status == 0 and "resuming from checkpoint-" in again.output
    assert {read_record(tmp_path / "runs" / stage)["status"] for stage in STAGES} == {"done"}


@pytest.mark.parametrize("verb", ["evaluate", "chat", "merge", "export", "report", "data check", "plan"])
def test_other_verbs_end_without_a_traceback(data, sft_dir, tmp_path, verb):
    rows = json.dumps([{"path": str(data / "turns.jsonl")}])
    words = {
        "evaluate": [sft_dir, "--datasets", rows, "--output_dir", tmp_path / "evaluated"],
        "chat": [sft_dir],
        "merge": [sft_dir, tmp_path / "merged"],
        "export": [sft_dir, "--format", "vllm", "--output_dir", tmp_path / "exported"],
        "report": [sft_dir],
        "data check": ["sft", "--datasets", rows, "--model_name_or_path", sft_dir],
        "plan": ["sft", "--datasets", rows, "--model_name_or_path", sft_dir],
    }[verb]
    for moment in (0.5, 1.5, 3.0):
        ended = interrupt(start([*verb.split(), *words], tmp_path), when=moment, to_all=True, watched=[tmp_path])
        print(moment, ended)
        assert "Traceback" not in ended.output and ended.orphans == [] and ended.leftovers == []


def test_the_job_script_of_the_docs_requeues_what_it_interrupts(data, base_dir, tmp_path):
    page = (ROOT / "docs" / "guides" / "schedulers.md").read_text()
    script = re.search(r"```bash\n(#!/bin/bash.*?)```", page, re.DOTALL)[1]
    (tmp_path / "job.sh").write_text(script)
    config = {"datasets": [{"path": str(data / "turns.jsonl")}], "model_name_or_path": str(base_dir), "use_peft": True}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(config | {"max_length": 64} | LONG | {"max_steps": 100}))
    (tmp_path / "pipeline.yaml").write_text("output_dir: runs\nstages: {sft: sft.yaml}\n")
    for name, line in {"hfkit": f"exec {sys.executable} -m hfkit.cli", "scontrol": "echo called: scontrol"}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\n{line} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    out = tmp_path / "runs" / "mine" / "sft"
    ended = interrupt(start([], tmp_path, ["bash", "job.sh"], **env), signal.SIGUSR1, when=training(out))
    assert (ended.status, ended.orphans) == (143, [])
    assert ended.output.endswith("called: scontrol requeue 7\n")
    assert read_record(out)["signal"] == "SIGUSR1"
    ended = interrupt(start([], tmp_path, ["bash", "job.sh"], **env), when=lambda: False)
    assert (ended.status, read_record(out)["status"]) == (0, "done")
    assert "scontrol" not in ended.output
