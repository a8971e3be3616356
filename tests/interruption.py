"""Creates stopped runs, and compares two runs."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

SPEED = ("_time", "runtime", "per_second")


def stopped_copy(done: Path, folder: Path, step: int, *more: str) -> Path:
    """Return a copy of a finished run as if killed after `checkpoint-{step}`: no artifact yet, status running.

    `more` names earlier checkpoints to keep.
    """
    keep = {"hfkit.json", "metrics.jsonl", "rollouts.jsonl", f"checkpoint-{step}", *more}
    shutil.copytree(done, folder, ignore=lambda path, names: set(names) - keep if Path(path) == done else set())
    record = json.loads((folder / "hfkit.json").read_text())
    (folder / "hfkit.json").write_text(json.dumps(record | {"status": "running"}))
    return folder


def assert_same_tensors(ours: dict, theirs: dict) -> None:
    """Compare bit for bit on the CPU, approximately on a GPU, where the order of sums varies."""
    tolerances = {"rtol": 1e-2, "atol": 1e-3} if torch.cuda.is_available() else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(ours, theirs, **tolerances)


def assert_same_values(ours, theirs) -> None:
    """Compare for equality on the CPU; on a GPU weights differ slightly, so compare only the number of values."""
    if torch.cuda.is_available():
        assert len(ours) == len(theirs)
    else:
        assert ours == theirs


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that both are done, with the same weights and the same curves."""
    for file in sorted(path.name for path in one.glob("*.safetensors")):
        assert_same_tensors(load_file(one / file), load_file(other / file))
    assert_same_values(curves(one), curves(other))
    records = [json.loads((folder / "hfkit.json").read_text()) for folder in (one, other)]
    assert [record["status"] for record in records] == ["done", "done"]
    assert_same_values(records[0]["metrics"], records[1]["metrics"])
    for count in ("steps", "episodes", "tokens"):
        assert records[0].get(count) == records[1].get(count)


def curves(folder: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without times and speeds."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k != "eps" and not k.startswith("time/") and not k.endswith(SPEED)}
        for row in rows
    ]
