"""TRL's SFTTrainer in micro-batches of similar length, with a chunked loss that does not compute on padding."""

from functools import partial

import torch
from trl import SFTTrainer

from hfkit.core.compat_trl import TokenOutputs, accept_adapted_head, fuses_head, has_plain_loss
from hfkit.data.forms import IGNORE
from hfkit.models.output_head import causal_model
from hfkit.models.sft_loss import fits_fused_head
from hfkit.models.summed_losses import sum_losses
from hfkit.models.token_predictions import loss_hit_and_entropy, shifted, to_float32
from hfkit.training.chunked_loss import ChunkedLoss
from hfkit.training.micro_batching import Batch, MicroBatching, router_loss_config


class MicroBatchedSFTTrainer(MicroBatching, ChunkedLoss, SFTTrainer):
    """TRL's SFTTrainer in micro-batches.

    The plain loss of TRL 1.12 pads each chunk to 256 labels and computes it twice. Here a chunk is neither padded nor
    computed twice.
    """

    def __init__(self, model, *args, **kwargs):
        with accept_adapted_head(model):
            super().__init__(model, *args, **kwargs)

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return TRL's loss, from the model's own logits where TRL would compute them from the weights of the head."""
        if fuses_head(self.args) and not self.is_chunked():
            if not fits_fused_head(causal_model(model), router_loss_config(self) is not None):
                model = partial(self.predict_from_logits, model)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def is_chunked(self) -> bool:
        """Return whether the loss is the plain one of the labels, which nothing else computes."""
        return super().is_chunked() and has_plain_loss(self.args)

    def predict(
        self, model, labels: torch.Tensor, num_items_in_batch=None, use_cache=False, fused_lm_head=True, **inputs
    ) -> TokenOutputs:
        """Return the loss of labels (B, T), and the values for TRL's metrics."""
        with self.accelerator.autocast():
            total, hits, entropies = sum_losses(model, inputs, shifted(labels), loss_hit_and_entropy)
        count = torch.tensor(len(hits), device=hits.device)
        loss = total / (count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return TokenOutputs(loss, hits.sum(), entropies.sum(), count, log_probs=-total)

    def predict_from_logits(self, model, labels: torch.Tensor | None = None, fused_lm_head: bool = False, **inputs):
        """Return the outputs that TRL's losses and metrics need; the model's own outputs unless `fused_lm_head`."""
        outputs = model(**inputs)
        if not fused_lm_head:
            return outputs
        targets = shifted(labels)
        chosen = targets != IGNORE
        losses, hits, entropies = loss_hit_and_entropy(to_float32(outputs.logits[chosen]), targets[chosen])
        router_loss = getattr(outputs, "aux_loss", None)
        return TokenOutputs(losses.mean(), hits.sum(), entropies.sum(), chosen.sum(), -losses, router_loss)
