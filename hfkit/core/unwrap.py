"""Unwraps the models that PEFT wraps."""

from peft import PeftModel
from transformers import PreTrainedModel


def without_adapter(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the Transformers model without PEFT's wrapper; LoRA layers stay in it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]  # of PEFT
