"""On one GPU: what a launcher starts there, with DDP and with FSDP2, trains, resumes, and opens elsewhere."""

from importlib import import_module

import pytest
import torch
from interruption import assert_same_run, stopped_copy
from model_outputs import logits
from processes import launch
from transformers import AutoModelForCausalLM

import hfkit
from hfkit.commands.merge import merge
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

pytestmark = pytest.mark.gpu
STEPS = {"max_steps": 4, "save_steps": 2, "logging_steps": 1}
QLORA, FULL = {"load_in_4bit": True}, {"use_peft": None, "lora_r": None}
CELLS = {
    "pretrain, FSDP2": ("fsdp2", "pretrain", {}),
    "SFT, LoRA, FSDP2": ("fsdp2", "sft", {}),
    "SFT, QLoRA, FSDP2": ("fsdp2", "sft", QLORA),
    "SFT, all weights, FSDP2": ("fsdp2", "sft", FULL),
    "reward model, QLoRA, FSDP2": ("fsdp2", "reward", QLORA),
    "PPO, all weights, FSDP2": ("fsdp2", "ppo", FULL),
    "SFT, QLoRA, DDP": (None, "sft", QLORA),
    "SFT, all weights, DDP": (None, "sft", FULL),
    "PPO, QLoRA, DDP": (None, "ppo", QLORA),
}


def run(stage: str, config) -> None:
    """Run a stage."""
    import_module(f"hfkit.stages.{stage}").main(config)


@pytest.mark.parametrize("cell", CELLS)
def test_a_launch_of_one_process(cell, config_of, tmp_path):
    engine, stage, settings = CELLS[cell]
    steps = {"total_episodes": 16, "save_steps": 2} if stage == "ppo" else STEPS
    settings = {**settings, **steps}
    launch(run, stage, config_of(stage, tmp_path / "launched", **settings), engine=engine, world=1)
    record = read_record(tmp_path / "launched")
    environment = record["environment"]
    assert (environment["engine"], environment["device"]) == (engine, torch.cuda.get_device_name())
    stopped = stopped_copy(tmp_path / "launched", tmp_path / "stopped", 2)
    launch(run, stage, config_of(stage, stopped, **settings, resume_from_checkpoint=True), engine=engine, world=1)
    assert read_record(stopped)["resumed_from"] == "checkpoint-2"
    assert_same_run(stopped, tmp_path / "launched")
    if stage != "ppo":  # which samples other responses from weights that are gathered in bf16
        alone = config_of(stage, tmp_path / "alone", **settings)
        run(stage, alone)
        losses = [
            [row["loss"] for row in read_metrics(tmp_path / name) if "loss" in row] for name in ("launched", "alone")
        ]
        assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], rel=2e-2)  # weights are gathered in bf16
    if stage != "reward":
        policy, _ = hfkit.load_policy(str(tmp_path / "launched"), dtype="float32", quantization=None)
        merges = (tmp_path / "launched" / "adapter_config.json").is_file()
        folder = merge(str(tmp_path / "launched"), tmp_path / "merged", "float32") if merges else tmp_path / "launched"
        assert torch.allclose(logits(policy), logits(AutoModelForCausalLM.from_pretrained(folder)), atol=2e-2)  # TF32
