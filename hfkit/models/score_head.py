"""Defines the head of a reward or value model: one number per token, always in float32.

bfloat16 resolves a reward of 3.4 to 0.016, and an update of 3e-6 does not change a weight of 0.02.
"""

import torch
from transformers import PreTrainedModel

from hfkit.core.unwrap import without_adapter


class ScoreHead(torch.nn.Linear):
    """A linear layer that computes in float32 (float64 if its weights are), even under autocast."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.to(dtype), self.weight.to(dtype), bias)


def compute_head_in_float32(model: torch.nn.Module) -> torch.nn.Module:
    """Make the `score` head of a model, if it has one, compute in float32; return the model."""
    classifier = without_adapter(model)
    head = getattr(classifier, "score", None)
    for module in head.modules() if head is not None else ():
        if type(module) is torch.nn.Linear:  # under an adapter there are two: the base's and the trained one
            module.__class__ = ScoreHead  # keeps the weights, which other models may share
    return model


def store_head_in_float32(classifier: PreTrainedModel) -> None:
    """Cast the head of a base to float32 before an adapter copies it.

    peft casts the LoRA matrices to float32, but not modules trained in full.
    """
    if hasattr(classifier, "score"):
        classifier.score.float()
