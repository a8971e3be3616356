"""Recomputes activations in the backward pass, under the name that the installed Transformers has for it."""

from peft import PeftModel
from transformers import PreTrainedModel


def recompute_activations(model: PreTrainedModel | PeftModel) -> None:
    """Keep no activations of a model's layers but their inputs (arXiv 1604.06174)."""
    is_new = hasattr(model, "activation_checkpointing_enable")  # since Transformers 5.23; the old name warns
    enable = model.activation_checkpointing_enable if is_new else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
