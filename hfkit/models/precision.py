"""Chooses the dtype of a model's weights if the config sets none: 16 bits for frozen weights, float32 for others."""

import torch

from hfkit.core.device import has_bf16


def frozen_dtype(kind: str, bf16: bool, use_peft: bool, checkpoint: str) -> str:
    """Return the dtype to load a base in: bfloat16 for a frozen base of 16 bits on a GPU, else float32.

    Under bf16 autocast a float32 copy of such weights computes the same with twice the memory. A float16 checkpoint is
    converted to bfloat16 too: autocast would round its matrices anyway, and float16 overflows without loss scaling.

    Args:
        kind: type of the device, "cuda" or "cpu".
        bf16: whether the run computes in bf16.
        use_peft: whether the base stays frozen under an adapter. Trained 16-bit weights round small updates to 0.
        checkpoint: dtype of the stored weights.
    """
    is_half = checkpoint in ("bfloat16", "float16")
    return "bfloat16" if kind == "cuda" and bf16 and use_peft and is_half else "float32"


def dtype_to_evaluate(dtype: str | None) -> str:
    """Return the dtype to evaluate or chat in: the given one, else bfloat16 on a GPU with bf16, else float32."""
    return dtype or ("bfloat16" if has_bf16() else "float32")


def checkpoint_dtype(model_config) -> str:
    """Return the name of the dtype in a model's config; float32 if it names none."""
    dtype = model_config.dtype or model_config.get_text_config().dtype or torch.float32
    return str(dtype).removeprefix("torch.")


def computes_in_bf16(config, available: bool) -> bool:
    """Return whether a stage computes under bf16 autocast, by its config, else by availability."""
    return config.bf16 if config.bf16 is not None else available and not config.extra.get("fp16", False)


def train_in_float32(model: torch.nn.Module) -> torch.nn.Module:
    """Cast the trained weights of a model to float32, in place; return the model.

    peft casts LoRA matrices, but not modules trained in full (`modules_to_save`). Under autocast these work with a
    16-bit base.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype.itemsize < 4:
            parameter.data = parameter.data.float()
    return model
