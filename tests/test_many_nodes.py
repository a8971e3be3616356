"""The job script of two nodes in docs/guides/many_gpus.md: one launcher per node on this machine, with DDP on CPUs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import free_port

from hfkit.core.shipped import shipped_folder
from hfkit.records.record import read_record

ROOT = Path(__file__).parents[1]
LIMIT = 240
SRUN = """#!/bin/bash
# Starts a task on each "node", and forwards SIGTERM to all, as srun does ahead of a time limit.
for node in 0 1; do SLURM_NODEID=$node SLURM_NNODES=2 SLURM_GPUS_ON_NODE=1 "$@" & tasks="$tasks $!"; done
trap 'kill -TERM $tasks' TERM
echo $$ > srun.pid
status=0
for task in $tasks; do
  while wait "$task"; ended=$?; kill -0 "$task" 2> /dev/null; do :; done
  [ "$ended" -gt "$status" ] && status=$ended
done
exit "$status"
"""
SCONTROL = """#!/bin/sh
[ "$1" = show ] && echo 127.0.0.1 || echo "called: scontrol $*"
"""


def wait_until(is_true, process: subprocess.Popen) -> None:
    """Wait until a condition holds, at most `LIMIT` seconds, while a process runs."""
    latest = time.monotonic() + LIMIT
    while not is_true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < latest
        time.sleep(0.05)


@pytest.mark.distributed
def test_the_job_of_two_nodes_saves_at_the_time_limit_and_resumes(data, base_dir, tmp_path):
    page = (ROOT / "docs" / "guides" / "many_gpus.md").read_text(encoding="utf-8")
    script = re.search(r"```bash\n(#!/bin/bash.*?)```", page, re.DOTALL)[1]
    assert "--signal=TERM@" in script and "29500" in script
    script = script.replace("29500", str(free_port())).replace(
        "fsdp2.yaml", str(shipped_folder("configs") / "accelerate/ddp.yaml")
    )
    (tmp_path / "job.sh").write_text(script)
    settings = {
        "datasets": [{"path": str(data / "turns.jsonl")}],
        "model_name_or_path": str(base_dir),
        "use_peft": True,
    }
    settings |= {"max_length": 64, "max_steps": 60, "save_steps": 1000, "logging_steps": 1, "learning_rate": 1e-3}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here"}
    env |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    out, logs = tmp_path / "runs" / "mine", tmp_path / "runs" / "mine" / "metrics.jsonl"

    def start() -> subprocess.Popen:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=env, **options)

    job = start()
    try:
        wait_until(lambda: logs.is_file() and len(logs.read_text().splitlines()) > 2, job)
        os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGTERM)
        output, _ = job.communicate(timeout=LIMIT)
        assert job.returncode != 0 and "called: scontrol requeue 7" in output, output
        record = read_record(out)
        assert (record["status"], record["signal"]) == ("interrupted", "SIGTERM")
        job = start()
        output, _ = job.communicate(timeout=LIMIT)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert (job.returncode, read_record(out)["status"]) == (0, "done"), output
    steps = [json.loads(line)["step"] for line in logs.read_text().splitlines() if "loss" in line]
    assert steps == sorted({*steps}) and steps[-1] == 60
    assert "scontrol" not in output
