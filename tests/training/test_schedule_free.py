"""An optimizer without a schedule trains weights that are not those to evaluate and save."""

from functools import partial

import pytest
import torch
from quick import slow
from safetensors.torch import load_file

from hfkit.records.record import read_record
from hfkit.training.sft_trainer import MicroBatchedSFTTrainer

CHANGES = {"max_steps": 2, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "test_split_size": 8}
SHIFT = 0.25


class Shifted(torch.optim.SGD):
    """Adds a shift to the weights while they are trained, and removes it as `schedulefree` does with its own."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        for group in self.param_groups:
            group["train_mode"] = False

    def move(self, is_training: bool) -> None:
        for group in self.param_groups:
            for weight in group["params"] if group["train_mode"] != is_training else ():
                weight.data += SHIFT if is_training else -SHIFT
            group["train_mode"] = is_training

    def train(self):
        self.move(True)

    def eval(self):
        self.move(False)


@pytest.mark.parametrize(
    "changes", [CHANGES, slow({**CHANGES, "load_best_model_at_end": True}), slow({"max_steps": 2})]
)
def test_the_weights_to_evaluate_are_published_and_saved(run_stage, tmp_path, monkeypatch, changes):
    settings = {"learning_rate": 0.0, "optim": "sgd", "save_total_limit": None, **changes}
    plain = run_stage("sft", tmp_path / "plain", **settings)
    shifted = partial(MicroBatchedSFTTrainer, optimizer_cls_and_kwargs=(Shifted, {"lr": 0.0}))
    monkeypatch.setattr("hfkit.stages.sft.MicroBatchedSFTTrainer", shifted)
    folder = run_stage("sft", tmp_path / "run", **settings)
    for name in (".", *(path.name for path in plain.glob("checkpoint-*"))):
        found, expected = (load_file(one / name / "adapter_model.safetensors") for one in (folder, plain))
        for key, weight in expected.items():
            torch.testing.assert_close(found[key], weight, rtol=0, atol=1e-6)
    metrics, expected = (read_record(str(one))["metrics"] for one in (folder, plain))
    assert metrics.get("eval_loss") == pytest.approx(expected.get("eval_loss"), abs=1e-5)
    assert metrics["train_loss"] != pytest.approx(expected["train_loss"], abs=1e-3)
