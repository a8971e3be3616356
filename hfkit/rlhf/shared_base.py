"""One frozen base under several roles: module trees of their own that hold the very same parameters."""

import copy

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hfkit.models.quantization import scales_of
from hfkit.models.score_head import hold_head_in_float32, with_exact_head


def copy_sharing_frozen(model: PreTrainedModel) -> PreTrainedModel:
    """A module tree of its own that holds the very same frozen parameters and buffers; trainable ones are copied."""
    shared = [p for p in model.parameters() if not p.requires_grad]
    shared += [*model.buffers(), *scales_of(model)]
    return copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})


def classifier_over(base: PreTrainedModel) -> PreTrainedModel | None:
    """A one-label sequence classifier on the frozen backbone of a causal LM, with a float32 head of zeros to be loaded.

    Returns:
        None where the architecture's classifier has another backbone than its language model.
    """
    config = copy.deepcopy(base.config)
    config.num_labels = 1
    with torch.device("meta"):  # its own weights are never made
        classifier = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=base.config._attn_implementation
        )
    prefix = classifier.base_model_prefix
    if type(getattr(base, prefix, None)) is not type(getattr(classifier, prefix)):
        return None
    setattr(classifier, prefix, copy_sharing_frozen(getattr(base, prefix)))
    classifier.score.to_empty(device=base.device).requires_grad_(False)
    torch.nn.init.zeros_(classifier.score.weight)
    hold_head_in_float32(classifier)
    for name in QUANTIZED:
        if hasattr(base, name):
            setattr(classifier, name, getattr(base, name))
    return with_exact_head(classifier)


# What transformers notes on a quantized model, and what peft and the trainers ask it for.
QUANTIZED = ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method", "hf_quantizer")
