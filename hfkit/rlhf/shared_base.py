"""Shares one frozen base between several roles: separate module trees hold the same parameters."""

import copy
from typing import TypeVar

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hfkit.core.compat import copy_quantization
from hfkit.models.classifiers import provide_classifier
from hfkit.models.quantization import quantization_state
from hfkit.models.score_head import compute_head_in_float32, store_head_in_float32

Module = TypeVar("Module", bound=torch.nn.Module)


def copy_sharing_frozen(model: Module) -> Module:
    """Return a copy that holds the same frozen parameters and buffers; trainable ones are copied."""
    shared: list[object] = [p for p in model.parameters() if not p.requires_grad]
    shared += [*model.buffers(), *quantization_state(model)]
    return copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})


def classifier_over(base: PreTrainedModel) -> PreTrainedModel | None:
    """Return a one-label sequence classifier on the frozen backbone of a causal LM, with a float32 head of zeros.

    Returns:
        None if the classifier of the architecture has a different backbone than its language model.
    """
    config = copy.deepcopy(base.config)
    config.num_labels = 1
    provide_classifier(config)
    with torch.device("meta"):  # allocates no weights
        # the copy keeps the attention implementation
        classifier = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    prefix = classifier.base_model_prefix
    if type(getattr(base, prefix, None)) is not type(getattr(classifier, prefix)):
        return None
    setattr(classifier, prefix, copy_sharing_frozen(getattr(base, prefix)))
    classifier.score.to_empty(device=base.device).requires_grad_(False)
    torch.nn.init.zeros_(classifier.score.weight)
    store_head_in_float32(classifier)
    copy_quantization(base, classifier)
    compute_head_in_float32(classifier)
    return classifier
