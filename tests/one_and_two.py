"""Compares a run in several processes, `two` in a folder, with a run in one process, `one` in the same folder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an artifact."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_training(folder: Path, engine: str, tolerance: float) -> None:
    """Assert that the weights of both differ by at most `tolerance`, and losses, gradient norms and metrics agree."""
    one, two = weights_of(folder / "one"), weights_of(folder / "two")
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=tolerance)
    records = [read_record(folder / name) for name in ("one", "two")]
    logs = [[log for log in read_metrics(folder / name) if "grad_norm" in log] for name in ("one", "two")]
    for name in ("loss", "grad_norm"):
        assert [log[name] for log in logs[0]] == pytest.approx([log[name] for log in logs[1]], rel=1e-4)
    assert records[0]["metrics"] == pytest.approx(records[1]["metrics"], rel=1e-4)
    assert [record["environment"]["engine"] for record in records] == [None, engine]
