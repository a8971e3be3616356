"""Linear layers that neither LoRA nor quantization may change, by architecture: the model does more than call them.

It reads their weights, like the GPU kernels of state-space layers. LoRA on such a layer learns nothing, and quantized
bytes are read as weights; PEFT refuses LoRA on some. Or the layer computes more than a product: routers return several
tensors, and DeepSeek V4 multiplies groups.
"""

import re

from transformers import PreTrainedConfig

STATE_SPACE = ("x_proj", "dt_proj", "out_proj")
DIRECT_WEIGHTS = {
    **dict.fromkeys(["falcon_mamba", "mamba"], STATE_SPACE),
    **dict.fromkeys(["bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h", "zamba2"], STATE_SPACE[-1:]),
    "jamba": ("dt_proj",),
    "gemma3n_text": ("correction_coefs", "prediction_coefs"),
    "deepseek_v4": ("o_a_proj",),
    "llama4_text": ("router",),
    "longcat_flash": ("classifier",),
    "phimoe": ("router",),
}
"""Model type -> names of the layers."""


def direct_weights(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the names of a model's linear layers that no LoRA and no quantization may change."""
    return DIRECT_WEIGHTS.get(config.get_text_config().model_type, ())


def is_target(name: str, targets: list[str] | set[str] | str) -> bool:
    """Return whether `target_modules` match the full name of a module, as in PEFT.

    Raises:
        re.error: `targets` is a string but not a regular expression.
    """
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
