"""The plan knows architectures whose config has no heads, other ones in each layer, or infinite limits."""

import pytest
import torch
from planned import CPU, FUNCTIONS, LORA
from quick import mostly_slow
from small_models import REGISTERS_CLASSIFIERS, SIZES
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from hfkit.models.model_config import attention_widths
from hfkit.rlhf.rollout import generation_bytes
from hfkit.training.memory.peak import plan_memory

COMMON = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 512}
MIXER = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
PER_LAYER = {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "head_dim": 8}
MODELS = {
    "gemma3n_text": {**COMMON, **LAYERS, **PER_LAYER, "altup_num_inputs": 2, "laurel_rank": 4},
    "granitemoehybrid": {**COMMON, **MIXER, "layer_types": ["mamba", "attention"], "num_local_experts": 0},
    "falcon_h1": {**COMMON, **MIXER, "mamba_d_ssm": 64},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}
WIDTHS = {"gemma3n_text": (4, 32, 16), "granitemoehybrid": (4, 32, 16), "falcon_h1": (4, 32, 16), "mamba": (0, 0, 0)}
if "gemma4_text" in CONFIG_MAPPING:
    MODELS["gemma4_text"] = {**COMMON, **LAYERS, **PER_LAYER, "global_head_dim": 16}
    WIDTHS["gemma4_text"] = (4, 64, 32)


@pytest.mark.parametrize("model_type", mostly_slow(MODELS, ["granitemoehybrid", "mamba"]))
def test_a_plan_has_the_weights_of_the_model(model_type, tokenizer, folder_of, stage_for):
    sizes = (
        {"vocab_size_per_layer_input": len(tokenizer)} if "hidden_size_per_layer_input" in MODELS[model_type] else {}
    )
    folder = folder_of({"model_type": model_type, **MODELS[model_type], **sizes})
    model = AutoModelForCausalLM.from_pretrained(folder)
    size = sum(parameter.nbytes for parameter in model.parameters())
    adapter, policy = (
        plan_memory(stage_for(name, model_name_or_path=folder, **LORA, **changes), CPU)
        for name, changes in (("sft", {}), ("ppo", FUNCTIONS if REGISTERS_CLASSIFIERS else {}))
    )
    assert adapter.roles[0].weights - adapter.roles[0].gradients == size
    assert policy.peak > adapter.roles[0].weights
    assert attention_widths(model.config) == WIDTHS[model_type]
    rows, tokens = 3, 11
    keys = rows * tokens * 2 * 2 * WIDTHS[model_type][2] * torch.float32.itemsize
    assert generation_bytes(model.config, rows, tokens, 4) == keys + rows * 4 * len(tokenizer) * 4
