"""Two processes under FSDP2 train what one process does, save it as one does, and resume to the same bits."""

from importlib import import_module

import pytest
import torch
from conftest import SHAPE
from interruption import assert_same_run, stopped_copy
from processes import launch
from safetensors.torch import load_file

from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.training.run import checkpoints_in

STEPS = {"lora_dropout": 0.0, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "max_grad_norm": 0.5}
QLORA = {"use_peft": True, "load_in_4bit": True}
FULL = {"use_peft": False, "lora_r": None}
UNEVEN = {**SHAPE, "intermediate_size": 63}
CONTINUED = {"model_config": None, "tokenizer_name_or_path": None}
ACCUMULATED = {"micro_batches_by_length": False, "gradient_accumulation_steps": 2}
BEST = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
SAMPLED = {**CONTINUED, **BEST, "sample_prompts": ["Ann likes"], "test_split_size": 9}
WHOLE = {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
EFFICIENT = {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
RECOMPUTED = {"FSDP_ACTIVATION_CHECKPOINTING": "true"}
VARIANTS = {
    "whole": ("sft", {**FULL, **BEST}, WHOLE),
    "whole-lora": ("sft", BEST, WHOLE),
    "whole-tied": ("pretrain", {"model_config": {**UNEVEN, "tie_word_embeddings": True}}, WHOLE),
    "efficient": ("sft", FULL, EFFICIENT),
    "efficient-lora": ("reward", {}, EFFICIENT),
    "efficient-full": ("reward", FULL, EFFICIENT),
    "efficient-tied": ("pretrain", {"model_config": {**UNEVEN, "tie_word_embeddings": True}}, EFFICIENT),
    "efficient-qlora": ("reward", QLORA, EFFICIENT),
    "recomputed": ("sft", FULL, RECOMPUTED),
    "checkpointing": ("sft", {**QLORA, "gradient_checkpointing": True}, {}),
    "accumulated": ("sft", {**FULL, **ACCUMULATED}, {}),
    "accumulated-pretrain": ("pretrain", ACCUMULATED, {}),
    "samples": ("pretrain", SAMPLED, {}),
    "samples-lora": ("pretrain", {**SAMPLED, "use_peft": True}, {}),
    "best": ("reward", {**QLORA, **BEST}, {}),
    "head": ("sft", {"lora_target_modules": ["q_proj", "lm_head"]}, {}),
    "no-reshard": ("sft", {}, {"FSDP_RESHARD_AFTER_FORWARD": "false"}),
    "no-wrap": ("sft", {}, {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}),
    "no-wrap-reward": ("reward", {}, {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}),
}
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


def complete(settings: dict, request) -> dict:
    """The settings of a run, with the model that it continues."""
    base = {"model_name_or_path": str(request.getfixturevalue("base_dir"))}
    return {**STEPS, **settings, **(base if settings.get("model_config", 0) is None else {})}


@pytest.mark.distributed
@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_train_as_one_and_resume(cell, config_of, request, tmp_path):
    stage, settings = CELLS[cell]
    check(stage, complete(settings, request), {}, config_of, tmp_path)
    assert (tmp_path / "two" / "checkpoint-2" / "pytorch_model_fsdp_0" / ".metadata").exists()


@pytest.mark.distributed
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant(variant, config_of, request, tmp_path):
    stage, settings, environment = VARIANTS[variant]
    check(stage, complete(settings, request), environment, config_of, tmp_path)


def check(stage: str, settings: dict, environment: dict, config_of, folder) -> None:
    """Train in one process and in two, which come to the same; resume the second run, to the same bits."""
    run(stage, config_of(stage, folder / "one", per_device_train_batch_size=4, **settings))
    settings = {**settings, "per_device_train_batch_size": 2}
    options = {"engine": "fsdp2", "environment": environment}
    launch(run, stage, config_of(stage, folder / "two", **settings), **options)
    one, two = weights_of(folder / "one"), weights_of(folder / "two")
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-4)
    records = [read_record(folder / name) for name in ("one", "two")]
    logs = [[log for log in read_metrics(folder / name) if "grad_norm" in log] for name in ("one", "two")]
    for name in ("loss", "grad_norm"):
        assert [log[name] for log in logs[0]] == pytest.approx([log[name] for log in logs[1]], rel=1e-4)
    assert records[0]["metrics"] == pytest.approx(records[1]["metrics"], rel=1e-4)
    assert [record["environment"]["engine"] for record in records] == [None, "fsdp2"]
    first = checkpoints_in(folder / "two")[-1].name
    stopped = stopped_copy(folder / "two", folder / "stopped", int(first.rpartition("-")[2]))
    launch(run, stage, config_of(stage, stopped, **settings, resume_from_checkpoint=True), **options)
    assert read_record(stopped)["resumed_from"] == first
    assert_same_run(stopped, folder / "two")
