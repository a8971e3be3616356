"""bitsandbytes: a frozen base in 4 or 8 bits, and what its layers need beside the libraries' own care."""

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from hfkit.core.device import has_bf16
from hfkit.records.record import record_of


def quantization_of(config) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings from a stage's config."""
    return _quantization(vars(config))


def quantization_as_trained(path: str, revision: str = "main") -> BitsAndBytesConfig | None:
    """bitsandbytes' settings of the run that made a folder or Hub repository, from its record if it has one.

    An adapter has learnt to make up for the errors of the base that it was trained over, so it is at its best there.
    """
    return _quantization((record_of(path, revision) or {}).get("config") or {})


def _quantization(settings: dict) -> BitsAndBytesConfig | None:
    """Computes in bf16 on a GPU that has it, else in fp32: on a CPU without matrix units bf16 is far slower."""
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


def keep_unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """Keeps bitsandbytes from repacking 4-bit weights on a CPU with AVX512-BF16 when they are first evaluated.

    No gradient comes through the packed weights: after an evaluation, LoRA would train on wrong ones, silently.
    """
    from bitsandbytes.nn import Linear4bit  # noqa: PLC0415 - it logs when it is imported

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def scales_of(model: torch.nn.Module) -> list:
    """What the quantized layers of a model hold beside their parameters: scales, in tensors and in objects of tensors.

    Layers that share a parameter share these too. 8-bit layers move theirs out of the parameter at their first forward
    pass, where the other layers would look for them in vain: that is done here for all at once.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt  # noqa: PLC0415 - it logs when it is imported

    scales = []
    for module in model.modules():
        if isinstance(module, Linear4bit):
            scales.append(module.weight.quant_state)
        elif isinstance(module, Linear8bitLt):
            if module.weight.CB is not None:
                module.init_8bit_state()
            scales += [module.state.CB, module.state.SCB]
    return scales
