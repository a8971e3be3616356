"""TRL's SFTTrainer in micro-batches of like length, with a loss that computes nothing for rows that it lacks."""

from typing import NamedTuple

import torch
from trl import SFTTrainer

from hfkit.models.summed_losses import sum_losses
from hfkit.models.token_predictions import loss_hit_and_entropy, shifted
from hfkit.training.chunked_loss import ChunkedLoss
from hfkit.training.micro_batching import MicroBatching


class Predicted(NamedTuple):
    """What TRL's SFTTrainer reads of a model's outputs: the loss, and sums over the labels, all scalars."""

    loss: torch.Tensor
    num_correct_tokens: torch.Tensor
    entropy_sum: torch.Tensor
    num_valid_tokens: torch.Tensor


class MicroBatchedSFTTrainer(MicroBatching, ChunkedLoss, SFTTrainer):
    """TRL's SFTTrainer in micro-batches.

    TRL's `chunked_nll` fills each chunk up to 256 labels and computes it twice. Here a chunk has the labels that there
    are and is computed once.
    """

    def is_chunked(self) -> bool:
        """Return whether the loss is the plain one of the labels, which nothing else computes."""
        return super().is_chunked() and self.args.loss_type == "chunked_nll"

    def predict(self, model, labels: torch.Tensor, num_items_in_batch=None, use_cache=False, **inputs) -> Predicted:
        """Return the loss of labels (B, T), and what TRL's metrics are made of."""
        with self.accelerator.autocast():
            total, hits, entropies = sum_losses(model, inputs, shifted(labels), loss_hit_and_entropy)
        count = torch.tensor(len(hits), device=hits.device)
        loss = total / (count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return Predicted(loss, hits.sum(), entropies.sum(), count)
