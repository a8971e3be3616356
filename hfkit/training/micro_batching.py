"""A mixin for trainers that computes the rows of a step in micro-batches of similar length.

The rows of a step and its loss do not change: the loss is a sum over tokens or rows, so the losses of the parts add up.
Micro-batches avoid computing on padding, which is more than half of the tokens in batches of real conversations.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from peft import PeftModel
from torch.nn.functional import pad
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from hfkit.core.compat_logged import logged_counts, weigh_logged
from hfkit.core.compat_trl import averages_router_loss
from hfkit.core.device import largest_of_processes
from hfkit.core.kept_logs import KeepsLogs, use_evaluated_weights
from hfkit.data.encoding import count_ids
from hfkit.data.forms import IGNORE
from hfkit.models.adapter_inputs import keep_input_dtype
from hfkit.models.micro_batches import batches_by_length, call_tokens, micro_batches, round_up
from hfkit.models.sft_loss import ROUTER_KEY
from hfkit.models.shared_prefixes import PADDING
from hfkit.training.embedding_noise import EmbeddingNoise
from hfkit.training.sharding import is_sharded, reduce_in_float32, shard_present_layers

Batch = dict[str, torch.Tensor]
TOKEN_MEAN = "bnpo"
"""The loss of GRPO that is a mean over the tokens of a batch; others are sums, or means over its rows."""


class MicroBatching(KeepsLogs, Trainer):
    """Splits each step, with all the batches that it accumulates, and each evaluation into micro-batches.

    Args:
        max_tokens: of a micro-batch, padding included; None keeps the batches of the data loader.

    Attributes:
        joined: number of batches of the current step that are computed as one.
    """

    joined = 1

    def __init__(self, *args, max_tokens: int | None, **kwargs):
        self.max_tokens = max_tokens
        super().__init__(*args, **kwargs)
        alpha, self.neftune_noise_alpha = self.args.neftune_noise_alpha, None  # Trainer's noise depends on padding
        self.noise = EmbeddingNoise(self.model, alpha) if alpha else None
        reduce_in_float32(self.accelerator)
        shard_present_layers(self.model, self.accelerator)
        if router_loss_config(self) is not None or self.is_deepspeed_enabled:
            # that loss is not a sum over tokens; and DeepSpeed's engine counts the passes of a step itself
            self.max_tokens = None

    # Training

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        """Return the batches of a step, all rows in the last one if its loss is the same, and the number of labels."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.joined = 1
        if self.max_tokens and len(batches) > 1 and self.can_join(batches, items):
            joined, self.joined = self.join(batches), len(batches)
            batches = [{name: tensor[:0] for name, tensor in joined.items()}] * (len(batches) - 1) + [joined]
        return batches, items

    def training_step(self, model, inputs: Batch, num_items_in_batch=None) -> torch.Tensor:
        """Add the gradients of a batch; return the loss."""
        with keep_input_dtype(self.model, self.accelerator.native_amp):
            if not self.max_tokens:
                return super().training_step(model, inputs, num_items_in_batch)
            return self.training_steps(model, inputs, num_items_in_batch)

    def training_steps(self, model, inputs: Batch, num_items_in_batch=None) -> torch.Tensor:
        """Add the gradients of a batch, one micro-batch after the other; return the loss."""
        if not len(inputs["input_ids"]):
            return torch.zeros((), device=self.args.device)
        parts, before, losses = self.split(inputs), logged_counts(self, "train"), []
        weights = torch.stack([self.weight(part) for part in parts])
        for index, part in enumerate(parts):
            if not self.adds_up(part, num_items_in_batch):
                part["share"] = self.joined * weights[index] / weights.sum()
            is_last = index == len(parts) - 1
            # FSDP2 would keep whole gradients in each process, which are small only for an adapter
            sums_later = not is_last and (isinstance(self.model, PeftModel) or not is_sharded(model))
            with self.accelerator.no_sync(model) if sums_later else nullcontext():
                losses.append(super().training_step(model, part, num_items_in_batch))
            if not is_last:
                self.control = self.callback_handler.on_substep_end(self.args, self.state, self.control)
        weights = self.accelerator.reduce(weights, "sum").tolist()
        weigh_logged(self, "train", before, weights, self.token_weights(parts))
        return torch.stack(losses).sum()

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss of a micro-batch, or its share of the batch's loss if losses do not add up."""
        with self.noise.of_batch(inputs) if self.noise else nullcontext():
            return self.share_of_loss(model, inputs, return_outputs, num_items_in_batch)

    def share_of_loss(self, model, inputs: Batch, return_outputs: bool, num_items_in_batch):
        """Return what `compute_loss` returns."""
        share = inputs.pop("share", 1.0)
        sums_router_loss = num_items_in_batch is not None and self.sums_router_loss()
        if not (return_outputs or sums_router_loss):  # newer versions of TRL compute the outputs in a second pass
            return super().compute_loss(model, inputs, False, num_items_in_batch) * share
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if sums_router_loss:
            loss = loss - self.router_excess(outputs)
        return (loss * share, outputs) if return_outputs else loss * share

    def sums_router_loss(self) -> bool:
        """Return whether the router loss of a mixture of experts is added to the loss like a sum over tokens."""
        is_added = self.compute_loss_func is None and self.label_smoother is None
        return router_loss_config(self) is not None and is_added and not averages_router_loss(self.args)

    def router_excess(self, outputs) -> torch.Tensor | float:
        """Return how much a micro-batch's router loss exceeds its share of the mean over all micro-batches.

        Transformers treats it as a sum over tokens, which would multiply it by the number of processes and batches.
        """
        config, aux_loss = router_loss_config(self), getattr(outputs, "aux_loss", None)
        if aux_loss is None:
            return 0.0
        times = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return getattr(config, ROUTER_KEY, 0.0) * aux_loss * (times - 1 / self.current_gradient_accumulation_steps)

    def can_join(self, batches: list[Batch], items: torch.Tensor | int | None) -> bool:
        """Return whether the loss of a step is the same if the rows of its batches are in one batch."""
        return self.adds_up(batches[0], items)

    def adds_up(self, batch: Batch, items: torch.Tensor | int | None) -> bool:
        """Return whether a step's loss is the sum of its parts' losses, given the number of its labels, if known."""
        return items is not None and row_lengths(batch) is not None

    def weight(self, batch: Batch) -> torch.Tensor:
        """Return the number of predicted labels, over which metrics are averaged."""
        return (batch["labels"][:, 1:] != IGNORE).sum()

    def token_weights(self, parts: list[Batch]) -> dict[str, list[float]]:
        """Return the weights of the parts by metric, for metrics that are not averaged over `weight`."""
        return {}

    def join(self, batches: list[Batch]) -> Batch:
        """Return the rows of several batches as one batch."""
        width = max(batch["input_ids"].shape[1] for batch in batches)
        filling = {"labels": IGNORE, "branches": PADDING, "input_ids": self.processing_class.pad_token_id}

        def wide(name: str, tensor: torch.Tensor) -> torch.Tensor:
            return pad(tensor, (0, width - tensor.shape[1]), value=filling.get(name, 0))

        return {name: torch.cat([wide(name, batch[name]) for batch in batches]) for name in batches[0]}

    def split(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch, equally many in each process."""
        lengths = row_lengths(batch)
        if lengths is None or len(lengths) == 1:
            return [batch]
        parts = [torch.as_tensor(part, device=lengths.device) for part in self.cut(lengths.cpu().numpy())]
        widths = [round_up(int(lengths[part].max()), getattr(self.args, "pad_to_multiple_of", None)) for part in parts]
        return [
            {name: tensor[part, :width] for name, tensor in batch.items()}
            for part, width in zip(parts, widths, strict=True)
        ]

    def cut(self, lengths: np.ndarray, sequences: np.ndarray | None = None) -> list[np.ndarray]:
        """Return the rows of each micro-batch (see `micro_batches`), equally many in each process."""
        options = (lengths, self.max_tokens, call_tokens(self.model), sequences)
        parts = micro_batches(*options)
        if self.accelerator.num_processes == 1:
            return parts
        return micro_batches(*options, count=largest_of_processes(len(parts)))

    # Evaluation

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Compute the metrics of `held_out_figures`, named as Trainer names them."""
        self.model.eval()
        use_evaluated_weights(self)
        with keep_input_dtype(self.model, self.accelerator.native_amp):
            figures = self.held_out_figures(dataloader.dataset)
        named = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return EvalLoopOutput(None, None, named, len(dataloader.dataset))

    def held_out_figures(self, rows: Dataset) -> dict[str, float]:
        """Return the mean loss over all labels of the rows, independent of batch size and number of processes."""
        before, weights, total = logged_counts(self, "eval"), [], 0.0
        with self.accelerator.autocast(), without_router_loss(self), without_smoothing(self):
            for indices in self.evaluation_batches(rows):
                batch = self.collate(rows, indices)
                count = self.weight(batch)
                loss = self.compute_loss(self.model, batch)
                weights.append(count)
                total += float(loss) * int(count) if count else 0.0
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        counts = self.accelerator.reduce(torch.stack(weights), "sum")
        weigh_logged(self, "eval", before, counts.tolist())
        total = self.accelerator.reduce(torch.tensor(total, device=self.args.device, dtype=torch.float64), "sum")
        return {"loss": float(total / counts.sum())}

    def evaluation_batches(self, rows: Dataset) -> list[list[int]]:
        """Return the rows of each batch of this process, equally many batches in each; row -1 has no labels."""
        lengths = count_ids(rows.select_columns("input_ids").with_format("arrow")[:]["input_ids"])
        parts = batches_by_length(lengths, self.args.per_device_eval_batch_size, call_tokens(self.model))
        batches, processes = [part.tolist() for part in parts], self.accelerator.num_processes
        return [*batches, *[[-1]] * (-len(batches) % processes)][self.accelerator.process_index :: processes]

    def collate(self, rows: Dataset, indices: list[int]) -> Batch:
        """Return some rows as a batch on the device."""
        columns = rows[[max(index, 0) for index in indices]]
        made = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for index, row in zip(indices, made, strict=True):
            if index < 0:
                row["labels"] = [IGNORE] * len(row["input_ids"])
        return send_to_device(self.data_collator(made), self.args.device)


def row_lengths(batch: Batch) -> torch.Tensor | None:
    """Return the number of tokens of each row, (B,); None if conversations are joined into one row."""
    if "attention_mask" in batch:
        return batch["attention_mask"].sum(1)
    ids = batch["input_ids"]
    return None if "position_ids" in batch else torch.full((len(ids),), ids.shape[1], device=ids.device)


def has_entropy_term(arguments) -> bool:
    """Return whether the loss of GRPO has a term of entropies, which is neither a sum nor a mean over rows.

    Args:
        arguments: of a trainer; others have no such keys.
    """
    coefficient, is_adaptive = getattr(arguments, "entropy_coef", 0), getattr(arguments, "use_adaptive_entropy", False)
    return coefficient != 0 or is_adaptive or getattr(arguments, "top_entropy_quantile", 1) < 1


def joins_batches(loss_type: str, accumulated: int, sampled: int) -> bool:
    """Return whether GRPO or RLOO can compute the batches of a step as one, with the same loss.

    Args:
        accumulated: batches of a step, all of which have as many rows.
        sampled: batches whose responses are sampled at once; some losses divide by the number of tokens of all of them.
    """
    return accumulated > 1 and sampled % accumulated == 0 and loss_type != TOKEN_MEAN


def router_loss_config(trainer: Trainer):
    """Return the config that makes a trainer's model add its router loss; None if it does not."""
    config = trainer.model.config.get_text_config()
    return config if getattr(config, "output_router_logits", False) else None


@contextmanager
def without_smoothing(trainer: Trainer):
    """Leave out label smoothing: a smoothed loss is not a likelihood, and its exponential no perplexity."""
    smoother, trainer.label_smoother = trainer.label_smoother, None
    try:
        yield
    finally:
        trainer.label_smoother = smoother


@contextmanager
def without_router_loss(trainer: Trainer):
    """Leave out the router loss of a mixture of experts, which is not a likelihood and depends on the batch."""
    config = router_loss_config(trainer)
    if config is None:
        yield
        return
    config.output_router_logits = trainer.aux_loss_enabled = False
    try:
        yield
    finally:
        config.output_router_logits = trainer.aux_loss_enabled = True
