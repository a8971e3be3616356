"""A mixin for trainers of causal language models that computes the loss without all logits in memory at once."""

from functools import partial

import torch
from transformers import Trainer

from hfkit.data.forms import IGNORE
from hfkit.models.summed_losses import sum_losses
from hfkit.models.token_predictions import cross_entropy, shifted
from hfkit.training.micro_batching import Batch, router_loss_config


class ChunkedLoss(Trainer):
    """Computes the loss of a model's own forward pass from its hidden states, a chunk of tokens at a time.

    Label smoothing, the router loss of a mixture of experts, liger-kernel and torch.compile use the model's own loss.
    """

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss summed over the labels / `num_items_in_batch`, or its mean; the outputs have no logits."""
        predict = partial(self.predict, model) if self.is_chunked() else model
        return super().compute_loss(predict, inputs, return_outputs, num_items_in_batch)

    def is_chunked(self) -> bool:
        """Return whether the loss is the plain one of the labels, which nothing else computes."""
        args = self.args
        is_plain = self.label_smoother is None and not args.use_liger_kernel and not args.torch_compile
        return is_plain and router_loss_config(self) is None

    def predict(self, model, labels: torch.Tensor, num_items_in_batch=None, **inputs) -> dict:
        """Return the loss of labels (B, T) as the outputs of a model."""
        with self.accelerator.autocast():
            (total,) = sum_losses(model, inputs, shifted(labels), cross_entropy)
        count = (labels[:, 1:] != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count}
