"""GRPO and RLOO, end to end."""

import json

import pytest
import torch
from safetensors.torch import load_file

METHODS = ("grpo", "rloo")


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def folder(run_stage, method, tmp_path_factory):
    return run_stage(method, tmp_path_factory.mktemp(method) / "run", test_split_size=4, max_steps=3, sample_steps=1)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_publishes_one_adapter_that_moved(folder, sft_dir):
    before, after = (load_file(path / "adapter_model.safetensors") for path in (sft_dir, folder))
    assert before.keys() == after.keys() and not [
        path for path in folder.iterdir() if path.is_dir() and path.name == "ref"
    ]
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_metrics_have_the_names_of_ppo(folder):
    rows = metrics_of(folder)
    print(rows, [p.name for p in folder.iterdir()], (folder / "rollouts.jsonl").read_text()[:500])
    names = {"objective/kl", "objective/scores", "objective/entropy", "val/reply_length", "val/repetition", "val/ended"}
    assert len(rows) == 3 and all(names <= row.keys() for row in rows)
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    record = json.loads((folder / "hfkit.json").read_text())
    assert {"reward_first", "kl_last", "eval_kl", "eval_reward_sft"} <= record["metrics"].keys()
