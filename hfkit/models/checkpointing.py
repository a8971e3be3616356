"""Recomputes activations in the backward pass, through the method of the installed Transformers."""

from peft import PeftModel
from transformers import PreTrainedModel


def recompute_activations(model: PreTrainedModel | PeftModel) -> None:
    """Keep only the inputs of a model's layers and recompute other activations (arXiv 1604.06174)."""
    is_new = hasattr(model, "activation_checkpointing_enable")  # since Transformers 5.23; the old name warns
    enable = model.activation_checkpointing_enable if is_new else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
