"""Two processes train and evaluate as one does, although each cuts other rows into micro-batches."""

from functools import partial
from importlib import import_module

import pytest
import torch
from micro_batch_cases import CASES, STEPS
from processes import launch
from safetensors.torch import load_file

from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record


def run(stage: str, config) -> None:
    import_module(f"hfkit.stages.{stage}").main(config)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_and_evaluate_as_one_does(case, accumulation, config_of, rows_file, tmp_path):
    stage, rows, settings = CASES[case]
    settings = settings | {
        **STEPS,
        "datasets": rows_file(rows[21:]),
        "eval_datasets": rows_file(rows[:21], "test.jsonl"),
    }
    settings = settings | {
        "max_tokens_per_micro_batch": 160,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 4 // accumulation,
    }
    run(stage, config_of(stage, tmp_path / "one", per_device_train_batch_size=6, **settings))
    launch(run, stage, config_of(stage, tmp_path / "two", per_device_train_batch_size=3, **settings))

    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)
    one, two = (read_record(tmp_path / name)["metrics"] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-5, abs=1e-6)  # margins are small differences of large sums
    one, two = ([log["loss"] for log in read_metrics(tmp_path / name) if "loss" in log] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["concatenate", "documents"])
def test_a_row_that_only_one_of_two_processes_has_counts_once(packing, config_of, tmp_path):
    settings = {"max_steps": 1, "learning_rate": 0.0, "test_split_size": 14, "block_size": 24, "packing": packing}
    found = []
    for name, start in (("one", run), ("two", partial(launch, run))):
        config = config_of("pretrain", tmp_path / name, **settings)
        start("pretrain", config)
        record = read_record(tmp_path / name)
        found.append({key: value for key, value in record["metrics"].items() if "eval" in key})
    assert found[0]["eval_loss"] > 0
    assert found[0] == pytest.approx(found[1], rel=1e-6)
