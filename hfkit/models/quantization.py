"""Configures quantization with bitsandbytes of a frozen base in 4 or 8 bits, and fixes its layers."""

import copy

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from hfkit.core.compat import keep_unpacked, scales_of_8bit
from hfkit.core.device import has_bf16
from hfkit.core.errors import HfkitError, reason
from hfkit.models.direct_weights import direct_weights
from hfkit.records.record import record_of


def quantization_as_trained(path: str, revision: str = "main") -> BitsAndBytesConfig | None:
    """Return the quantization settings of the run that created a folder or Hub repository, from its record; else None.

    An adapter learns to compensate for the errors of its quantized base, so it works best on that base.

    Raises:
        HfkitError: the settings in the record are invalid.
    """
    try:
        return quantization_of((record_of(path, revision) or {}).get("config") or {})
    except (LookupError, TypeError, ValueError) as error:
        raise HfkitError(f"the record of {path} has invalid quantization settings: {reason(error)}") from error


def quantization_of(settings: dict) -> BitsAndBytesConfig | None:
    """Return the quantization settings of a stage's config, as a mapping; None for a base that is not quantized.

    They compute in bf16 on a GPU with bf16, else in fp32: most CPUs are far slower in bf16.
    """
    if settings.get("load_in_8bit"):
        return BitsAndBytesConfig(load_in_8bit=True)
    if not settings.get("load_in_4bit"):
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings["bnb_4bit_quant_type"],
        bnb_4bit_use_double_quant=settings["use_bnb_nested_quant"],
        bnb_4bit_compute_dtype=torch.bfloat16 if has_bf16() else torch.float32,
    )


def fit_quantization(settings: BitsAndBytesConfig, config: PreTrainedConfig) -> BitsAndBytesConfig:
    """Return quantization settings adjusted to a model, whose `direct_weights` stay whole, as its output head does."""
    direct = direct_weights(config)
    if not direct:
        return settings
    settings = copy.deepcopy(settings)
    settings.llm_int8_skip_modules = [*direct, "lm_head", "score"]  # this list replaces Transformers' own
    return settings


def prevent_packing(model: PreTrainedModel) -> PreTrainedModel:
    """Keep gradients flowing through a model's 4-bit layers after an evaluation on a CPU; return the model."""
    from bitsandbytes.nn import Linear4bit  # noqa: PLC0415 - it logs when it is imported

    for module in model.modules():
        if isinstance(module, Linear4bit):
            keep_unpacked(module)
    return model


def quantization_state(model: torch.nn.Module) -> list:
    """Return the state of quantized layers besides their parameters: tensors, and objects that contain tensors.

    Layers that share a parameter must share these too.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt  # noqa: PLC0415 - it logs when it is imported

    scales = []
    for module in model.modules():
        if isinstance(module, Linear4bit):
            scales.append(module.weight.quant_state)
        elif isinstance(module, Linear8bitLt):
            scales += scales_of_8bit(module)
    return scales


def quantized_layers(model: torch.nn.Module) -> dict[torch.nn.Module, int]:
    """Return the linear layers quantized by bitsandbytes, each with its bits, 4 or 8."""
    if not getattr(model, "is_quantized", False):
        return {}
    from bitsandbytes.nn import Linear4bit, Linear8bitLt  # noqa: PLC0415 - it logs when it is imported

    bits = {Linear4bit: 4, Linear8bitLt: 8}
    return {module: bits[type(module)] for module in model.modules() if type(module) in bits}


def dequantized(layer: torch.nn.Module) -> torch.Tensor:
    """Return the float32 matrix that a 4-bit layer computes with, (out, in)."""
    from bitsandbytes.functional import dequantize_4bit  # noqa: PLC0415 - it logs when it is imported

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
