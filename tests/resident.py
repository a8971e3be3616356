"""python resident.py STAGE VALUES [ENGINE]: the peak memory of each process of a run, planned and measured.

It needs a separate process, since freed memory must go back to the system at once, as on a GPU: glibc reads the
threshold for that when it starts. Prints a line of JSON with planned, measured and the libraries' bytes per process.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHAPE_100M = {"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
SHAPE_100M |= {"num_attention_heads": 12, "max_position_embeddings": 256}
"""Shape of a model whose weights take most of the memory."""


def status(key: str) -> int:
    """Return bytes of this process, as counted by Linux."""
    return 1024 * int(re.search(key + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def run_measured(name: str, values: dict, output: str) -> None:
    """Run a stage, and write the planned and the resident memory from its first optimizer step to its last.

    Leave out the checkpoint's mapped pages, which are resident but can be released at any time.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from hfkit.config.parsing import load_config
    from hfkit.config.registry import STAGES
    from hfkit.stages.checks.stage import problems_of
    from hfkit.training.memory.device import find_device
    from hfkit.training.memory.peak import plan_memory
    from hfkit.training.memory.planned_stage import plan_stage
    from hfkit.training.memory.processes import this_launch

    config = load_config(STAGES[name].config_class, values, problems_of)
    stage, device = import_module(f"hfkit.stages.{name}"), find_device()
    plan = plan_memory(plan_stage(name, config, {}, device), device, this_launch(config.extra))
    mapped, steps = status("RssFile"), []

    def measure(*_) -> None:
        steps.append(None)
        if len(steps) == 1:
            Path("/proc/self/clear_refs").write_text("5")
            return
        measured = status("VmHWM") - (status("RssFile") - mapped)
        Path(f"{output}.{os.environ.get('RANK', 0)}").write_text(json.dumps([plan.peak, measured, plan.taken]))

    hook = register_optimizer_step_post_hook(measure)
    stage.main(config)
    hook.remove()


def resident_memory(name: str, values: dict, engine: str = "") -> list[list[int]]:
    """Return planned and measured peak and the libraries' bytes of each process of a run, in separate processes."""
    folders = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    env = os.environ | {"PYTHONPATH": folders, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, name, json.dumps(values), *([engine] if engine else [])]
    ran = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    name, values, *engine = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        work = (name, json.loads(values), f"{folder}/peak")
        if engine:
            from processes import launch
            from resident import run_measured as measured  # a process of the launch does not know this file as __main__

            launch(measured, *work, engine=None if engine[0] == "ddp" else engine[0])
        else:
            run_measured(*work)
        print(json.dumps([json.loads(file.read_text()) for file in sorted(Path(folder).iterdir())]))
