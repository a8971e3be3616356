"""Existing models are within the bounds of configs."""

import pytest

from hfkit.records.bounds import model_config_fault

EXISTING = {
    "Gemma 3n": {
        "text_config": {
            **{"num_hidden_layers": 35, "intermediate_size": [16384] * 35, "hidden_size_per_layer_input": 256},
            **{"vocab_size": 262400, "vocab_size_per_layer_input": 262144, "layer_types": ["full_attention"] * 35},
        }
    },
    "Llama 4": {
        "text_config": {"max_position_embeddings": 10485760, "num_hidden_layers": 48, "num_local_experts": 128}
    },
    "DeepSeek V3": {"num_hidden_layers": 61, "n_routed_experts": 256, "num_attention_heads": 128, "vocab_size": 129280},
    "Kimi K2": {"num_hidden_layers": 61, "n_routed_experts": 384, "max_position_embeddings": 262144},
    "gpt-oss": {"num_local_experts": 128, "quantization_config": {"quant_method": "mxfp4"}, "num_hidden_layers": 36},
    "Qwen3 Next": {"num_hidden_layers": 48, "num_experts": 512, "num_experts_per_tok": 10, "vocab_size": 151936},
    "GPT-2": {"n_layer": 12, "n_inner": None, "n_positions": 1024},
    "quanto": {"quantization_config": {"quant_method": "quanto"}},
}


@pytest.mark.parametrize("config", [pytest.param(config, id=name) for name, config in EXISTING.items()])
def test_a_model_that_exists_is_within_the_bounds(config):
    assert model_config_fault(config) is None
