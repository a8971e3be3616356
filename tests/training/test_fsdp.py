"""Two processes under FSDP2 train what one process does, save it as one does, and resume to the same bits."""

from importlib import import_module

import pytest
import torch
from conftest import SHAPE
from processes import launch
from safetensors.torch import load_file

from hfkit.records.record import read_record

STEPS = {"lora_dropout": 0.0, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "max_grad_norm": 0.5}
QLORA = {"use_peft": True, "load_in_4bit": True}
FULL = {"use_peft": False, "lora_r": None}
UNEVEN = {**SHAPE, "intermediate_size": 63}
CONTINUED = {"model_config": None, "tokenizer_name_or_path": None}
CELLS = {
    "pretrain": ("pretrain", {"model_config": UNEVEN}),
    "pretrain-tied": ("pretrain", {"model_config": {**UNEVEN, "tie_word_embeddings": True}}),
    "pretrain-lora": ("pretrain", {**CONTINUED, "use_peft": True}),
    "pretrain-documents": ("pretrain", {**CONTINUED, "packing": "documents"}),
    "sft": ("sft", FULL),
    "sft-lora": ("sft", {}),
    "sft-qlora": ("sft", QLORA),
    "sft-packed": ("sft", {"packing": True}),
    "reward": ("reward", FULL),
    "reward-lora": ("reward", {}),
    "reward-qlora": ("reward", QLORA),
}


def run(stage: str, config) -> None:
    """Run a stage."""
    import_module(f"hfkit.stages.{stage}").main(config)


def weights_of(folder):
    """The tensors of an artifact."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.distributed
@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell, config_of, base_dir, tmp_path):
    stage, settings = CELLS[cell]
    settings = {**STEPS, **settings}
    if settings.get("model_config", 0) is None:
        settings["model_name_or_path"] = str(base_dir)
    run(stage, config_of(stage, tmp_path / "one", per_device_train_batch_size=4, **settings))
    config = config_of(stage, tmp_path / "two", per_device_train_batch_size=2, **settings)
    launch(run, stage, config, engine="fsdp2")
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert one.keys() == two.keys()
    print("WORST", cell, max(float((two[name] - weight).abs().max()) for name, weight in one.items()))
    records = [read_record(tmp_path / name)["metrics"] for name in ("one", "two")]
    print(records)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-4)
    assert records[0] == pytest.approx(records[1], rel=1e-4)
