"""Adds NEFTune's noise to embeddings, with a size that padding and the cut of a batch do not change.

Uniform noise up to alpha / sqrt(L d), with L the tokens of a sequence and d the width (Jain et al. 2023, arXiv
2310.05914, algorithm 1). Transformers takes the padded width of the batch for L.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hfkit.models.output_head import causal_model


class EmbeddingNoise:
    """Adds noise to the embeddings of a model in training, where gradients are computed.

    Args:
        alpha: of NEFTune.
    """

    def __init__(self, model: torch.nn.Module, alpha: float):
        self.alpha = alpha
        self.lengths: torch.Tensor | None = None
        causal_model(model).get_input_embeddings().register_forward_hook(self.add)

    @contextmanager
    def of_batch(self, batch: dict[str, torch.Tensor]) -> Iterator[None]:
        """Add noise in the block, in the sizes for the sequences of a batch."""
        self.lengths = sequence_lengths(batch)
        yield
        self.lengths = None

    def add(self, module: torch.nn.Module, inputs: tuple, embeddings: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, T, H) with noise; references of DPO, which need no gradient, have none."""
        if self.lengths is None or not (module.training and torch.is_grad_enabled()):
            return embeddings
        largest = self.alpha / (self.lengths * embeddings.shape[-1]).sqrt()
        return embeddings + torch.empty_like(embeddings).uniform_(-1, 1) * largest[..., None].to(embeddings.dtype)


def sequence_lengths(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return how many tokens the sequence of each token of a batch has, int64 (B, T), or (B, 1) if rows are sequences.

    Conversations that are joined into one row, which have no attention mask, each begin at position 0.
    """
    ids, mask, positions = batch["input_ids"], batch.get("attention_mask"), batch.get("position_ids")
    if mask is not None:
        return mask.sum(1, keepdim=True)
    if positions is None:
        return torch.full_like(ids, ids.shape[1])
    starts = positions == 0
    starts[:, 0] = True
    sequence = starts.flatten().cumsum(0) - 1
    return sequence.bincount()[sequence].view_as(ids)
