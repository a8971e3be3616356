"""The default dtype of a model: 16 bits for frozen weights on a GPU, float32 for the rest."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from quick import slow
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from hfkit.core.device import has_bf16
from hfkit.models.loading import load_policy, load_trainable
from hfkit.models.precision import dtype_to_evaluate, frozen_dtype
from hfkit.records.record import read_record


@pytest.mark.parametrize(
    ("kind", "bf16", "use_peft", "checkpoint", "dtype"),
    [
        ("cuda", True, True, "bfloat16", "bfloat16"),
        ("cuda", True, True, "float16", "bfloat16"),  # autocast rounds its matrices to bfloat16 anyway
        ("cuda", True, True, "float32", "float32"),
        ("cuda", True, False, "bfloat16", "float32"),  # trained weights
        ("cuda", False, True, "bfloat16", "float32"),  # an older GPU, or bf16: false
        ("cuda", False, True, "float16", "float32"),
        ("cpu", True, True, "bfloat16", "float32"),
        ("cpu", False, False, "float32", "float32"),
    ],
)
def test_a_frozen_base_of_16_bits_stays_so_where_the_run_computes_in_bf16(kind, bf16, use_peft, checkpoint, dtype):
    assert frozen_dtype(kind, bf16, use_peft, checkpoint) == dtype


@pytest.fixture
def half_dir(base_dir, tmp_path) -> Path:
    """The base in bfloat16."""
    folder = Path(shutil.copytree(base_dir, tmp_path / "half"))
    AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.bfloat16).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    return folder


def frozen_and_trained(model) -> list[set[torch.dtype]]:
    return [{p.dtype for p in model.parameters() if p.requires_grad == trained} for trained in (False, True)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
@pytest.mark.parametrize(
    ("changes", "dtype"), [({}, "float32"), slow({"bf16": True}, "float32"), slow({"dtype": "auto"}, "auto")]
)
def test_on_a_cpu_a_base_is_loaded_in_float32_unless_asked_otherwise(run_stage, half_dir, tmp_path, changes, dtype):
    folder = run_stage("sft", tmp_path / "out", model_name_or_path=str(half_dir), max_steps=1, **changes)
    assert read_record(folder)["config"]["dtype"] == dtype
    assert dtype_to_evaluate(None) == "float32" and dtype_to_evaluate("bfloat16") == "bfloat16"


def test_an_explicit_dtype_wins(config_of, half_dir, tmp_path):
    config = config_of("sft", tmp_path / "out", model_name_or_path=str(half_dir), dtype="bfloat16")
    assert frozen_and_trained(load_trainable(config)) == [{torch.bfloat16}, {torch.float32}]


@pytest.fixture
def whole_adapter(half_dir, tmp_path) -> str:
    """An adapter that trains the embedding and the head in full, on a base in bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(half_dir)
    shape = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}
    folder = Path(shutil.copytree(half_dir, tmp_path / "theirs"))
    (folder / "model.safetensors").unlink()
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **shape)).save_pretrained(folder)
    return str(folder)


def test_modules_that_are_trained_whole_are_in_float32_under_autocast(run_stage, config_of, whole_adapter, tmp_path):
    options = {"model_name_or_path": whole_adapter, "dtype": "bfloat16", "bf16": True, "lora_r": None}
    config = config_of("sft", tmp_path / "other", **options)
    model = load_trainable(config)
    assert frozen_and_trained(model) == [{torch.bfloat16}, {torch.float32}]
    folder = run_stage("sft", tmp_path / "out", **options, max_steps=2, learning_rate=1e-6)
    with safe_open(folder / "adapter_model.safetensors", "pt") as now:
        name = next(name for name in now.keys() if "embed_tokens" in name)
        moved = now.get_tensor(name).float() - model.get_input_embeddings().weight.detach().float()
    assert 0 < moved.abs().max() < 1e-5  # bfloat16 would round such updates to 0
    assert not [warning for warning in read_record(folder)["warnings"] if "16 bits" in warning]


def test_modules_that_are_trained_whole_without_autocast_are_warned_of(run_stage, whole_adapter, tmp_path):
    options = {"model_name_or_path": whole_adapter, "dtype": "bfloat16", "bf16": False, "lora_r": None, "max_steps": 1}
    folder = run_stage("sft", tmp_path / "out", **options)
    assert [warning for warning in read_record(folder)["warnings"] if "in 16 bits" in warning]


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [{}, {"load_in_4bit": True}], ids=["whole", "4-bit"])
def test_on_a_gpu_the_frozen_base_stays_in_bf16(run_stage, config_of, half_dir, tmp_path, bits):
    if not has_bf16():
        pytest.skip("needs a GPU with bf16")
    options = {"model_name_or_path": str(half_dir), **bits}
    model = load_trainable(config_of("sft", tmp_path / "other", **options))
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert frozen_and_trained(model)[1] == {torch.float32}
    folder = run_stage("sft", tmp_path / "out", max_steps=2, **options)
    assert read_record(folder)["config"]["dtype"] == "bfloat16"
    assert load_policy(str(folder), dtype=dtype_to_evaluate(None))[0].dtype == torch.bfloat16


@pytest.mark.gpu
def test_on_a_gpu_full_weights_are_trained_in_float32(config_of, half_dir, tmp_path):
    options = {"model_name_or_path": str(half_dir), "use_peft": False, "lora_r": None}
    assert frozen_and_trained(load_trainable(config_of("sft", tmp_path, **options)))[1] == {torch.float32}
