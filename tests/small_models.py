"""Small random models of several architectures, and prompts of several lengths."""

import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.device import device

REGISTERS_CLASSIFIERS = Version(transformers.__version__) >= Version("5.19")
"""Whether Transformers registers a sequence classifier for an architecture that it knows without one."""
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PROMPTS = [[20, 21], [22, 23, 24, 25, 26, 27, 28], [29], [30, 31, 32, 33], [34, 35, 36]]
GEMMA = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6}
SETTINGS = {
    "llama": ("llama", SIZES),
    "sliding window": ("mistral", {**SIZES, "num_key_value_heads": 2, "sliding_window": 6}),
    "learned positions": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3_text", {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "qwen3": ("qwen3", {**SIZES, "num_key_value_heads": 2, "head_dim": 8}),
    "mixture": ("mixtral", {**SIZES, "num_key_value_heads": 2, "num_local_experts": 4}),
    "attention and recurrent": (
        "falcon_h1",
        {
            **{**SIZES, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_d_state": 8},
            **{"mamba_n_groups": 1, "num_key_value_heads": 2},
        },
    ),
    "recurrent": ("falcon_mamba", {"hidden_size": 32, "num_hidden_layers": 2}),
}


def model_of(family: str, vocabulary: int, seed: int = 0, spread: float = 1.0) -> torch.nn.Module:
    """Return a random model of a family, in eval mode; `spread` is the standard deviation of its weights."""
    torch.manual_seed(seed)
    model_type, sizes = SETTINGS[family]
    common = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family != "recurrent":
        common |= {"max_position_embeddings": 128, "initializer_range": spread}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **common, **sizes)).eval()
    return model.to(device())
