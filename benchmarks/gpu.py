"""python benchmarks/gpu.py [--model DIR] [--tokenizer DIR] [--budget 1500] [--device cuda|cpu] [--only REGEX]

What one machine with a GPU, and without a network, can tell about hfkit, in one command: the tests that need a GPU, a
kill and a resume, and each trainer compared with the one that it wraps, on Llamas of 135M, 1B and 8B, in bf16 and in 4
bits. 135M is the model at `--model`, else random weights of that shape, as are the others.

Each row of the plan is a process. It is written to records/CARD/gpu.json when it ends, with what it measured; the
details are in the same folder. What does not fit into `--budget` (seconds) is listed there as left out. Called again,
it runs the rows that are not done. `--device cpu` runs the same plan with tiny models.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch
from gpu_models import ROWS

from hfkit.core.files import read_json_mapping, write_json
from hfkit.records.environment import environment

HERE = Path(__file__).parent
LAUNCHES_AT_ONCE = 4
NO_TESTS = 5  # the exit status of pytest that found none
BF16 = ("--dtype", "bfloat16", "--bf16")
FOUR_BITS = (*BF16, "--load_in_4bit")
STEPS = ("--steps", "8", "--batch", "32")
PACKED = ("--packing", "--alone", "--checkpointing", "none", "--batch", "8", "--check", "0")
TINY = ("--steps", "1", "--batch", "2", "--max_length", "48")


@dataclass(frozen=True)
class Row:
    """A row of the plan.

    Attributes:
        seconds: what it takes on an H100 or H200, rounded up; it is left out if less of the budget is left.
        command: what runs, after the interpreter.
        needs: the shape of the model that it reads.
        details: the record that it writes, in the card's folder.
    """

    name: str
    seconds: int
    command: tuple[str, ...] = field(repr=False)
    needs: str | None = None
    details: str | None = None


def plan(asked: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows, the most telling first."""
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    resume = ("tests/training/test_kill.py", "tests/training/test_resume.py")
    launches = [f"tests/stages/test_{name}_on_a_gpu.py" for name in ("launches", "deepspeed")]
    rows = [
        Row("tests of the GPU", 300, (*tests, "-m", "gpu", "tests", *(f"--ignore={file}" for file in launches))),
        Row("kill and resume", 180, (*tests, *resume)),
    ]

    def make(shape: str, seconds: int) -> None:
        command = [str(HERE / "gpu_models.py"), shape, str(asked.work), asked.device]
        command += [str(asked.tokenizer)] if asked.tokenizer else []
        rows.append(Row(f"make {shape}", seconds, tuple(command)))

    def compare(stage: str, shape: str, seconds: int, kind: str, *options: str) -> None:
        given = asked.model if shape == "135M" and asked.model else asked.work / shape
        data = getattr(asked, stage) or asked.work / f"{ROWS[stage]}.jsonl"
        command = [str(HERE / f"{stage}_vs_trl.py"), "--model", str(given), "--data", str(data), "--name"]
        command += [f"{shape}-{kind}".replace(" ", "-"), "--pairs", str(asked.pairs), "--device", asked.device]
        command += ["--records", str(folder), *STEPS, *options, *(TINY if asked.device == "cpu" else ())]
        details = f"{stage}_vs_trl_{shape}-{kind}.json".replace(" ", "-")
        rows.append(Row(f"{stage} {shape} {kind}", seconds, tuple(command), shape, details))

    def ppo(shape: str, seconds: int, kind: str, *options: str) -> None:
        name = f"{shape}-{kind}"
        command = [str(HERE / "ppo_vs_trl.py"), "--model", str(asked.work / shape), "--name", name, "--updates", "1"]
        command += ["--pairs", str(asked.pairs), "--records", str(folder), *options]
        rows.append(Row(f"ppo {shape} {kind}", seconds, tuple(command), shape, f"ppo_vs_trl_{name}.json"))

    def online(shape: str, seconds: int, kind: str) -> None:
        given, name = asked.model if shape == "135M" and asked.model else asked.work / shape, f"{shape}-{kind}"
        command = [str(HERE / "online_vs_trl.py"), "--model", str(given), "--name", name, "--records", str(folder)]
        command += ["--pairs", str(asked.pairs), "--updates", "1" if asked.device == "cpu" else "3"]
        rows.append(Row(f"grpo and rloo {shape} {kind}", seconds, tuple(command), shape, f"online_vs_trl_{name}.json"))

    unchecked = ("--check", "0")
    make("135M", 20)
    compare("sft", "135M", 150, "float32", "--check", "20")
    compare("sft", "135M", 90, "bf16", *BF16, *unchecked)
    compare("sft", "135M", 80, "bf16 as by default", *BF16, *unchecked, "--checkpointing", "bare")
    compare("reward", "135M", 90, "bf16", *BF16, *unchecked)
    compare("pretrain", "135M", 90, "bf16", "--bf16", *unchecked)
    ppo("135M", 300, "bf16", "--engines", "static", "continuous")
    make("8B", 50)
    compare("sft", "8B", 75, "4bit packed", *FOUR_BITS, *PACKED)
    ppo("8B", 420, "4bit", "--load_in_4bit", "--engines", "static")
    make("1B", 25)
    compare("pretrain", "1B", 110, "bf16", "--bf16", *unchecked, "--checkpointing", "none", "--batch", "16")
    compare("sft", "1B", 90, "bf16", *BF16, *unchecked)
    compare("reward", "1B", 90, "bf16", *BF16, *unchecked)
    compare("sft", "8B", 90, "bf16 packed", *BF16, *PACKED)
    compare("sft", "8B", 150, "4bit", *FOUR_BITS, *unchecked)
    compare("sft", "8B", 120, "bf16", *BF16, *unchecked)
    compare("reward", "8B", 150, "4bit", *FOUR_BITS, *unchecked)
    ppo("1B", 250, "bf16", "--engines", "static")
    compare("dpo", "135M", 90, "bf16", *BF16, *unchecked)
    online("135M", 180, "bf16")
    workers = ("-n", str(LAUNCHES_AT_ONCE)) if find_spec("xdist") else ()  # most of a launch is one process starting
    rows += [
        Row(f"launches with {name}", 300, (*tests, *workers, "-m", "gpu", file))
        for name, file in zip(("DDP and FSDP2", "DeepSpeed"), launches, strict=True)
    ]
    return [row for row in rows if not asked.only or re.search(asked.only, row.name) or row.name.startswith("make")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the 135M model; none: random weights")
    parser.add_argument("--tokenizer", type=Path, help="of the models that are made; none: trained on their rows")
    for stage, content in ROWS.items():
        parser.add_argument(f"--{stage}", type=Path, help=f"{content} as .jsonl or .jsonl.gz; none: random words")
    parser.add_argument("--budget", type=float, default=1500, help="seconds for all")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", help="rows in whose name this regular expression is found")
    parser.add_argument("--records", type=Path, default=HERE / "records")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench-gpu"), help="for models and rows; removed at the end"
    )
    parser.add_argument("--keep", action="store_true", help="leave the models for another call")
    asked = parser.parse_args()
    catch_signals()
    os.environ["HFKIT_TEST_GPU"] = "1"  # otherwise tests run on the CPU
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU is visible: --device cpu runs the plan with tiny models")
    deadline = time.monotonic() + asked.budget - (time.time() - psutil.Process().create_time())
    card = re.sub(r"\W+", "-", torch.cuda.get_device_name()) if asked.device == "cuda" else "cpu"
    folder = asked.records / card
    for made in (folder, asked.work):
        made.mkdir(parents=True, exist_ok=True)
    try:
        ok = work_off(plan(asked, folder), folder, asked, deadline)
    finally:
        if not asked.keep:
            shutil.rmtree(asked.work, ignore_errors=True)
    sys.exit(0 if ok else 1)


def catch_signals() -> None:
    """Lets the first signal end the command, which first ends the row that runs; later ones change nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # `nohup` ignores one

    def end(number: int, frame: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, end)


def work_off(rows: list[Row], folder: Path, asked: argparse.Namespace, deadline: float) -> bool:
    """Runs what is not done and fits; writes the record after each row. Returns whether no row failed."""
    path = folder / "gpu.json"
    done = (read_json_mapping(path) or {}).get("rows", {})
    open_rows = [row for row in rows if done.get(row.name, {}).get("status") != "done"]
    left_out = []
    for row in rows:
        shape = row.name.removeprefix("make ") if row.name.startswith("make ") else None
        users = [one.seconds for one in open_rows if shape and one.needs == shape]
        if (shape and (not users or (asked.work / shape).exists())) or is_done(done, row.name, shape):
            continue
        remaining = deadline - time.monotonic()
        seconds = row.seconds + min(users, default=0)  # a model is made only if there is time to use it
        if remaining < (seconds if asked.device == "cuda" else 0) or (row.needs and not has_model(row.needs, asked)):
            left_out.append(row.name)
        else:
            print(f"{row.name} ({remaining:.0f} s left)", flush=True)
            done[row.name] = run(row, folder, asked, remaining)
            print(f"  {json.dumps(done[row.name])[:300]}", flush=True)
        write_json(path, {"benchmark": "gpu", "environment": environment(), "rows": done, "left_out": left_out})
    write_json(path, {"benchmark": "gpu", "environment": environment(), "rows": done, "left_out": left_out})
    print(f"{path}: {len(done)} rows; left out: {', '.join(left_out) or 'none'}")
    return all(one["status"] == "done" for one in done.values())


def is_done(done: dict, name: str, shape: str | None) -> bool:
    """Whether a row can be skipped; a model is made again where it is needed."""
    return shape is None and done.get(name, {}).get("status") == "done"


def has_model(shape: str, asked: argparse.Namespace) -> bool:
    return (asked.work / shape).exists() or (shape == "135M" and asked.model is not None)


def run(row: Row, folder: Path, asked: argparse.Namespace, remaining: float) -> dict:
    """Runs a row, at most for the seconds that remain; returns its status, seconds and results."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if asked.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    started = time.monotonic()
    log = folder / f"{row.name.replace(' ', '-')}.log"
    with log.open("w", encoding="utf-8") as stream:
        process = None
        try:
            process = psutil.Popen(
                [sys.executable, *row.command], stdout=stream, stderr=stream, env=variables, start_new_session=True
            )
            status = process.wait(remaining)
        except psutil.TimeoutExpired:
            status = None
        finally:  # a signal may arrive when the process has started, and before it is known
            for one in [process] if process else psutil.Process().children():
                end(one)
    result = {"seconds": round(time.monotonic() - started, 1)}
    is_test = "pytest" in row.command
    if status is None:
        return {"status": "out of time", **result}
    last = (log.read_text(encoding="utf-8").strip().splitlines() or [""])[-1]
    if status and not (is_test and status == NO_TESTS):
        return {"status": "failed", **result, "exit": status, "last_line": last}
    log.unlink()
    if is_test:
        result["tests"] = last
    if row.details:
        record = read_json_mapping(folder / row.details) or {}
        result |= {
            key: record[key] for key in ("hfkit_over_bare", "medians", "check", "speed", "methods") if key in record
        }
    return {"status": "done", **result}


def end(process: psutil.Process) -> None:
    """Ends a row with all its processes; those that tests have started are in their own sessions."""
    running = []
    with suppress(psutil.NoSuchProcess):
        running = [*process.children(recursive=True), process]
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for one in running:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(running)


if __name__ == "__main__":
    main()
