"""Leaves the inputs of adapters in the 16 bits that autocast computes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

FOUND: WeakKeyDictionary[PeftModel, list[LoraLayer]] = WeakKeyDictionary()
"""The LoRA layers of each model: to find them takes 10 ms, a tenth of a step of a small model on a GPU."""


@contextmanager
def keep_input_dtype(model: torch.nn.Module, autocast: bool) -> Iterator[None]:
    """Skip the cast of a LoRA layer's inputs to float32, which autocast reverts: two copies in each linear layer.

    Without dropout, results and gradients are equal bit for bit. With it, a GPU draws other elements to drop; layers on
    a CPU keep the cast, since it rounds the factor 1 / (1 - p) to the dtype of the input. DoRA keeps it too, since it
    computes norms in that dtype.

    Args:
        autocast: whether forward passes in the block compute in 16 bits by autocast.
    """
    layers = lora_layers(model) if autocast and isinstance(model, PeftModel) and not has_dora(model) else []
    before = [layer.cast_input_dtype_enabled for layer in layers]
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.cast_input_dtype_enabled = enabled


def has_dora(model: PeftModel) -> bool:
    """Return whether any adapter of a model uses DoRA."""
    return any(getattr(config, "use_dora", False) for config in model.peft_config.values())


def lora_layers(model: PeftModel) -> list[LoraLayer]:
    """Return the LoRA layers of a model, as they were when the model was first passed."""
    if model not in FOUND:
        FOUND[model] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return [layer for layer in FOUND[model] if not drops_on_cpu(layer)]


def drops_on_cpu(layer: LoraLayer) -> bool:
    """Return whether a layer has dropout and is on a CPU."""
    has_dropout = any(isinstance(one, torch.nn.Dropout) for one in layer.lora_dropout.values())
    return has_dropout and next(layer.parameters()).device.type == "cpu"
