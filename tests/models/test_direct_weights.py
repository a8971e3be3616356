"""Layers that an architecture does not only call: LoRA and quantization leave them alone."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from model_outputs import IDS, logits_at
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import hfkit
from hfkit.core.errors import ConfigError
from hfkit.models.direct_weights import DIRECT_WEIGHTS, direct_weights, is_target
from hfkit.records.record import read_record
from hfkit.training.memory.shapes import linear_weights

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
MIXER = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
ALTUP = {"hidden_size_per_layer_input": 8, "altup_num_inputs": 2, "laurel_rank": 4, "num_kv_shared_layers": 0}
MODELS = {
    "falcon_h1": {**MIXER, "mamba_d_ssm": 64},
    "granitemoehybrid": {**MIXER, "layer_types": ["mamba", "attention"], "num_local_experts": 0},
    "gemma3n_text": {**ALTUP, "layer_types": ["full_attention", "full_attention"]},
    "phimoe": {"num_local_experts": 4},
    "mamba": {"state_size": 8},
}
HARMLESS_READS = {
    "bloom": {"dense", "dense_4h_to_h"},  # only with slow_but_exact
    "reformer": {"query_key", "value"},
}
HARMLESS_CLASSES = {"FalconLinear", "DoryLMHead"}  # a product; an output head
READ = re.compile(r"self\.(\w+)\.weight\b(?!\s*=[^=]|\.(?:device|dtype|shape|size|new))")


@pytest.fixture
def folder_of(tokenizer, tmp_path):
    """folder_of(model_type) -> a tiny random model."""

    def make(model_type: str) -> str:
        torch.manual_seed(0)
        common = {"vocab_size": len(tokenizer), "vocab_size_per_layer_input": len(tokenizer)}
        common |= {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig.for_model(model_type, **{**SHAPE, **common, **MODELS[model_type]})
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / model_type)
        tokenizer.save_pretrained(tmp_path / model_type)
        return str(tmp_path / model_type)

    return make


def sources() -> dict[str, str]:
    """Return the code of each architecture with a causal language model, by its folder in Transformers."""
    root = Path(transformers.__file__).parent / "models"
    folders = {kind.removesuffix("_text").replace("-", "_") for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    files = {folder: root / folder / f"modeling_{folder}.py" for folder in folders}
    return {folder: file.read_text() for folder, file in files.items() if file.is_file()}


def test_each_linear_layer_whose_weight_is_read_is_known():
    listed = {kind.removesuffix("_text"): {*names} for kind, names in DIRECT_WEIGHTS.items()}
    found = {}
    for folder, code in sources().items():
        lines = [line for line in code.splitlines() if "init." not in line and "_assistant" not in folder]
        linear = {*re.findall(r"self\.(\w+) = nn\.Linear\(", code)}
        if read := linear & {name for line in lines for name in READ.findall(line)}:
            found[folder] = read
    assert found["mamba2"] == {"out_proj"}
    assert {folder: read for folder, read in found.items() if not read <= listed.get(folder, set())} == HARMLESS_READS


def test_each_linear_layer_with_its_own_forward_pass_is_known():
    for folder, code in sources().items():
        for name in {*re.findall(r"^class (\w+)\(nn\.Linear\)", code, re.MULTILINE)} - HARMLESS_CLASSES:
            attributes = {*re.findall(rf"self\.(\w+) = {name}\(", code)}
            assert attributes <= {*DIRECT_WEIGHTS.get(folder, ()), *DIRECT_WEIGHTS.get(f"{folder}_text", ())}, name


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "bits"), [*product(MODELS, (None, True))])
def test_all_other_linear_layers_are_adapted_and_quantized(model_type, bits, folder_of, run_stage, tmp_path):
    base = folder_of(model_type)
    settings = {
        "model_name_or_path": base,
        "load_in_4bit": bits,
        "learning_rate": 1e-2,
        "max_steps": 2,
        "save_steps": 2,
    }
    sft = run_stage("sft", tmp_path / "sft", **settings)
    weights = load_file(sft / "adapter_model.safetensors")
    direct = direct_weights(AutoConfig.from_pretrained(base))
    assert not [name for name in weights if name.split(".")[-3] in direct]
    # a token reaches few experts, and Gemma 3n starts with a factor of 0 before its inputs per layer
    moved = {name: weight.any() for name, weight in weights.items() if "lora_B" in name}
    assert all(moves for name, moves in moved.items() if "experts" not in name and "per_layer" not in name)
    policy = hfkit.load_policy(str(sft))[0].get_base_model()
    kinds = {name.rpartition(".")[2]: type(module) for name, module in policy.named_modules()}
    assert not [name for name in direct if issubclass(kinds[name], Linear4bit)]
    assert any(issubclass(kind, Linear4bit) for kind in kinds.values()) == bool(bits)
    assert read_record(sft).get("unquantized_modules") == ([*direct, "lm_head", "score"] if bits else None)
    assert ("llm_int8_skip_modules=[" in (sft / "README.md").read_text()) == bool(bits)
    if not bits:
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), sft).eval()
        with torch.no_grad():
            torch.testing.assert_close(plain(IDS).logits, logits_at(sft))
    again = run_stage("sft", tmp_path / "again", **{**settings, "model_name_or_path": str(sft), "learning_rate": 1e-9})
    torch.testing.assert_close(logits_at(again), logits_at(sft))


@pytest.mark.parametrize("model_type", MODELS)
def test_the_plan_does_not_quantize_them(model_type, folder_of):
    model = AutoModelForCausalLM.from_pretrained(folder_of(model_type))
    quantized = linear_weights(model)
    direct = [module for name, module in model.named_modules() if is_target(name, direct_weights(model.config))]
    assert direct and quantized.isdisjoint(id(module.weight) for module in direct)


@pytest.mark.parametrize("targets", [["in_proj", "out_proj"], ".*_proj"])
def test_an_adapter_on_such_a_layer_is_refused_before_loading(targets, folder_of, config_of, tmp_path):
    with pytest.raises(ConfigError, match="LoRA on out_proj has no effect in granitemoehybrid"):
        model = {"model_name_or_path": folder_of("granitemoehybrid"), "lora_target_modules": targets}
        config_of("sft", tmp_path / "sft", **model)
