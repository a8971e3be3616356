"""On one GPU: what a launcher starts there with DeepSpeed trains in bf16, resumes, and opens elsewhere."""

import json
from importlib import import_module

import pytest
import torch
from interruption import assert_same_run, stopped_copy
from processes import launch
from safetensors.torch import load_file

from hfkit.records.record import read_record

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.gpu
STEPS = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "lora_dropout": 0.0}
QLORA, FULL = {"load_in_4bit": True}, {"use_peft": None, "lora_r": None, "lora_dropout": None}
AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
CELLS = {
    "pretrain, ZeRO-3": ("zero3", "pretrain", {"lora_dropout": None, "learning_rate": 1e-3}, {}),
    "SFT, LoRA, ZeRO-3": ("zero3", "sft", {}, {}),
    "SFT, QLoRA, ZeRO-3": ("zero3", "sft", QLORA, {}),
    "SFT, QLoRA, ZeRO-2": ("zero2", "sft", QLORA, {}),
    "SFT, all weights, ZeRO-3": ("zero3", "sft", FULL, {}),
    "SFT, all weights, ZeRO-2": ("zero2", "sft", FULL, {}),
    "SFT, all weights, ZeRO-3, float32": ("zero3", "sft", {**FULL, "bf16": False}, {}),
    "SFT, recomputed, ZeRO-3": ("zero3", "sft", {"gradient_checkpointing": True}, {}),
    "reward model, QLoRA, ZeRO-3": ("zero3", "reward", QLORA, {}),
    "reward model, all weights, ZeRO-3": ("zero3", "reward", FULL, {}),
    "SFT, all weights, on the CPU": ("zero3", "sft", FULL, {"offload_optimizer": {"device": "cpu"}}),
}


def run(stage: str, config) -> None:
    """Run a stage."""
    import_module(f"hfkit.stages.{stage}").main(config)


@pytest.mark.parametrize("cell", CELLS)
def test_a_launch_of_one_process(cell, config_of, base_dir, tmp_path):
    engine, stage, settings, zero = CELLS[cell]
    settings = {**STEPS, **settings, **({"model_name_or_path": str(base_dir)} if "all weights" in cell else {})}
    zero = {"stage": int(engine[-1]), "stage3_param_persistence_threshold": 0, **zero}
    zero["stage3_gather_16bit_weights_on_model_save"] = True
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({**dict.fromkeys(AUTO, "auto"), "zero_optimization": zero}))
    options = {"engine": engine, "world": 1, "environment": {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}}
    launch(run, stage, config_of(stage, tmp_path / "launched", **settings), **options)
    environment = read_record(tmp_path / "launched")["environment"]
    assert (environment["engine"], environment["device"]) == (engine, torch.cuda.get_device_name())
    stopped = stopped_copy(tmp_path / "launched", tmp_path / "stopped", 2)
    launch(run, stage, config_of(stage, stopped, **settings, resume_from_checkpoint=True), **options)
    assert read_record(stopped)["resumed_from"] == "checkpoint-2"
    assert_same_run(stopped, tmp_path / "launched")
    run(stage, config_of(stage, tmp_path / "alone", **settings))
    ours, theirs = (load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("launched", "alone"))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():  # weights of DeepSpeed are in bf16 with bf16
        torch.testing.assert_close(ours[name].float(), weight.float(), rtol=1e-2, atol=6e-3)
