"""The head of a reward or value model: one number a token, in float32 whatever the layers below it compute in.

In bfloat16 a reward of 3.4 is known to 0.016, and a weight of 0.02 does not move by an update of 3e-6.
"""

import torch
from transformers import PreTrainedModel


class ScoreHead(torch.nn.Linear):
    """A linear map that computes in float32 (float64 if its weights are), under autocast too."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.to(dtype), self.weight.to(dtype), bias)


def with_exact_head(model: torch.nn.Module) -> torch.nn.Module:
    """The same model, under an adapter or not, whose `score`, if it has one, computes in float32 from now on."""
    classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = getattr(classifier, "score", None)
    for module in head.modules() if head is not None else ():
        if type(module) is torch.nn.Linear:  # under an adapter there are two: the base's, and the one that is trained
            module.__class__ = ScoreHead  # its weights, and who shares them, stay as they are
    return model


def hold_head_in_float32(classifier: PreTrainedModel) -> None:
    """Widens the weights of a base's head, before an adapter copies it: what is trained beside LoRA is in float32.

    peft widens LoRA's own matrices, but no whole modules.
    """
    if hasattr(classifier, "score"):
        classifier.score.float()
