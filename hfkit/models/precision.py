"""The dtype of a model's weights where a config leaves it open: 16 bits for what is frozen, float32 for the rest."""

import torch

from hfkit.core.device import has_bf16


def frozen_dtype(kind: str, bf16: bool, use_peft: bool, checkpoint: str) -> str:
    """Return the dtype to load a base in: bfloat16 for a frozen base of 16 bits on a GPU, else float32.

    Under bf16 autocast a float32 copy of such weights computes the same, with twice the memory. A checkpoint in float16
    becomes bfloat16 too: autocast rounds its matrices so in any case, and float16 overflows without loss scaling.

    Args:
        kind: type of the device, "cuda" or "cpu".
        bf16: whether the run computes in bf16.
        use_peft: whether the base stays frozen under an adapter. Trained weights round small updates away in 16 bits.
        checkpoint: dtype of the weights on the disk.
    """
    is_half = checkpoint in ("bfloat16", "float16")
    return "bfloat16" if kind == "cuda" and bf16 and use_peft and is_half else "float32"


def dtype_to_evaluate(dtype: str | None) -> str:
    """Return the dtype to evaluate or chat in: the given one, else bfloat16 on a GPU with bf16, or float32."""
    return dtype or ("bfloat16" if has_bf16() else "float32")


def checkpoint_dtype(model_config) -> str:
    """Return the name of the dtype that a model's config gives its weights; float32 where it gives none."""
    dtype = model_config.dtype or model_config.get_text_config().dtype or torch.float32
    return str(dtype).removeprefix("torch.")


def computes_in_bf16(config, available: bool) -> bool:
    """Return whether a stage computes under bf16 autocast, by its config or by what is available."""
    return config.bf16 if config.bf16 is not None else available and not config.extra.get("fp16", False)


def train_in_float32(model: torch.nn.Module) -> torch.nn.Module:
    """Cast the trained weights of a model to float32, in place; return the model.

    peft casts LoRA matrices, but no modules that are trained whole (`modules_to_save`). Under autocast these compute
    with a base in 16 bits.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype.itemsize < 4:
            parameter.data = parameter.data.float()
    return model
