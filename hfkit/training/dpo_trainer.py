"""TRL's DPOTrainer on encoded pairs, in micro-batches of similar length."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer

from hfkit.config.stages import OF_THE_BATCH
from hfkit.core.compat_logged import logged_counts, pop_logged, weigh_logged
from hfkit.core.compat_trl import EncodedRows, accept_adapted_reference
from hfkit.core.device import largest_of_processes
from hfkit.data.comparisons import mask_of
from hfkit.data.encoding import pair_lengths
from hfkit.models.dropout import turn_off_dropout
from hfkit.models.micro_batches import batches_by_length, call_tokens, round_up
from hfkit.training.micro_batching import Batch, MicroBatching

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


@dataclass
class PairCollator:
    """Collates N encoded pairs for TRL's DPOTrainer: N chosen sequences, then N rejected ones, padded on the right.

    Returns `input_ids`, `attention_mask` and `completion_mask`, int64 (2N, T) each. The last is 1 on the assistant's
    tokens after the prompt (`spans`); TRL's own collator sets it on the user's turns there too. Rows with precomputed
    log-probabilities of the reference add `ref_chosen_logps` and `ref_rejected_logps`, float32 (N,) each.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict]) -> Batch:
        ids = [row[name] for name in ("chosen_ids", "rejected_ids") for row in rows]
        options = {"padding_side": "right", "pad_to_multiple_of": self.pad_to_multiple_of, "return_tensors": "pt"}
        batch = dict(self.tokenizer.pad({"input_ids": ids}, **options))
        spans, length = [row["spans"][side] for side in (0, 1) for row in rows], batch["input_ids"].shape[1]
        batch["completion_mask"] = torch.tensor([mask_of(one, length) for one in spans], dtype=torch.int64)
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in REFERENCE if name in rows[0]}


class MicroBatchedDPOTrainer(MicroBatching, EncodedRows, DPOTrainer):
    """TRL's DPOTrainer in micro-batches, each weighted by its pairs, since the loss of a batch is a mean over pairs.

    Whole batches are computed if a loss is not such a mean (`OF_THE_BATCH`), or with the router loss of a mixture of
    experts.

    Args:
        max_tokens: of a micro-batch, padding included; None computes whole batches.
    """

    def __init__(self, *args, max_tokens: int | None, **kwargs):
        with accept_adapted_reference(DPOTrainer):
            super().__init__(*args, max_tokens=max_tokens, **kwargs)
        if self.args.disable_dropout:
            for module in self.model.modules():
                turn_off_dropout(module)
        if {*OF_THE_BATCH} & {*self.loss_types} or self.aux_loss_enabled:
            self.max_tokens = None

    def adds_up(self, batch: Batch, items: torch.Tensor | int | None) -> bool:
        """Return False: losses of micro-batches are means, and do not add up."""
        return False

    def can_join(self, batches: list[Batch], items: torch.Tensor | int | None) -> bool:
        """Return whether the batches of a step have equally many pairs: then the mean of their losses is that of all.

        TRL gathers the metrics of a batch, so several processes compute it alone.
        """
        return self.accelerator.num_processes == 1 and len({len(batch["input_ids"]) for batch in batches}) == 1

    def join(self, batches: list[Batch]) -> Batch:
        """Return the pairs of several batches as one batch: all chosen sequences, then all rejected ones."""
        count = len(batches[0]["input_ids"]) // 2
        of_pairs = {name: torch.cat([batch[name] for batch in batches]) for name in REFERENCE if name in batches[0]}
        joined = super().join([{name: batch[name] for name in batch if name not in REFERENCE} for batch in batches])
        sides = torch.arange(2 * count * len(batches)).view(len(batches), 2, count).transpose(0, 1).flatten()
        return {name: values[sides.to(values.device)] for name, values in joined.items()} | of_pairs

    def weight(self, batch: Batch) -> torch.Tensor:
        """Return the number of pairs, which the loss is a mean over, int64 ()."""
        return torch.tensor(len(batch["input_ids"]) // 2, device=batch["input_ids"].device)

    def token_weights(self, parts: list[Batch]) -> dict[str, list[float]]:
        """Return each part's tokens of responses in all processes, by the metrics that are a mean over these tokens."""
        masks = [part["completion_mask"][:, 1:].sum(1).chunk(2) for part in parts]
        counts = torch.stack([torch.stack([side.sum() for side in sides]) for sides in masks], dim=1)
        chosen, rejected = self.accelerator.reduce(counts, "sum").tolist()
        both = [sum(pair) for pair in zip(chosen, rejected, strict=True)]
        return {"entropy": both, "logits/chosen": chosen, "mean_token_accuracy": chosen, "logits/rejected": rejected}

    def compute_ref_log_probs(self, model, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the reference's log-probabilities of both sequences of N pairs, float32 (N,) each.

        TRL computes those of `precompute_ref_log_probs` for whole batches, before it cuts any.
        """
        if not (self.precompute_ref_logps and self.max_tokens):
            return super().compute_ref_log_probs(model, inputs)
        found, order = [], []
        for pairs, part in self.split_pairs(inputs):
            found.append(super().compute_ref_log_probs(model, part))
            order.append(pairs)
        chosen, rejected = (torch.cat(side)[torch.cat(order).argsort()] for side in zip(*found, strict=True))
        return chosen, rejected

    def split(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch, of whole pairs, equally many in each process."""
        return [part for _, part in self.split_pairs(batch)]

    def split_pairs(self, batch: Batch) -> list[tuple[torch.Tensor, Batch]]:
        """Return the micro-batches of a batch, each after the positions of its pairs in the batch, int64 (M,)."""
        count = len(batch["input_ids"]) // 2
        lengths = batch["attention_mask"].sum(1).view(2, count).amax(0).cpu().numpy()
        parts = []
        for part in self.cut(lengths, np.full(count, 2)):
            pairs = torch.as_tensor(part, device=batch["input_ids"].device)
            width = round_up(int(lengths[part].max()), self.args.pad_to_multiple_of)
            both = torch.cat([pairs, pairs + count])
            cut = {name: values[pairs] if name in REFERENCE else values[both, :width] for name, values in batch.items()}
            parts.append((pairs, cut))
        return parts

    def cut(self, lengths: np.ndarray, sequences: np.ndarray | None = None) -> list[np.ndarray]:
        """Return the pairs of each micro-batch, equally many in each process, since TRL gathers their metrics.

        Args:
            lengths: tokens of the longer sequence of each pair, (N,).
            sequences: sequences of each row, (N,); several processes take 2 for granted.
        """
        if self.accelerator.num_processes == 1:
            return super().cut(lengths, sequences)
        needed = -(-2 * len(lengths) * int(lengths.max()) // self.max_tokens)
        return np.array_split(np.argsort(-lengths, kind="stable"), min(largest_of_processes(needed), len(lengths)))

    # Evaluation

    def held_out_figures(self, rows: Dataset) -> dict[str, float]:
        """Return the mean loss of all pairs, and the accuracy and the mean margin of their implicit rewards.

        None depends on the batch size or on the number of processes.
        """
        before, total, counts, token_weights = logged_counts(self, "eval"), 0.0, [], []
        has_router_loss, self.aux_loss_enabled = self.aux_loss_enabled, False
        try:
            with self.accelerator.autocast():
                for pairs, count in self.evaluation_turns(rows):
                    batch = self.collate(rows, pairs)
                    total += float(self.compute_loss(self.model, batch)) * count
                    counts.append(count)
                    # below 1 for pairs that each process computes: `token_weights` counts their tokens once a process
                    share = count / (len(pairs) * self.accelerator.num_processes)
                    tokens = self.token_weights([batch])
                    token_weights.append({name: value * share for name, (value,) in tokens.items()})
                    self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        finally:
            self.aux_loss_enabled = has_router_loss
        others = {name: [one[name] for one in token_weights] for name in token_weights[0]}
        weigh_logged(self, "eval", before, counts, others)
        sums = self.accelerator.reduce(torch.tensor(total, device=self.args.device, dtype=torch.float64), "mean")
        accuracy, margin = (pop_logged(self, "eval", f"rewards/{name}") for name in ("accuracies", "margins"))
        return {"loss": float(sums / len(rows)), "accuracy": accuracy, "margin": margin}

    def evaluation_turns(self, rows: Dataset) -> list[tuple[list[int], int]]:
        """Return, for each forward pass, the pairs of this process and the number of pairs of all processes.

        Every process has equally many. The pairs left over at the end, fewer than processes, go through each of them.
        """
        lengths = np.maximum(*pair_lengths(rows.with_format("arrow")[:])[:2])
        size, count = self.args.per_device_eval_batch_size, self.accelerator.num_processes
        if count == 1:
            batches = batches_by_length(lengths, size, call_tokens(self.model))
            return [(batch.tolist(), len(batch)) for batch in batches]
        order = np.argsort(-lengths, kind="stable").tolist()
        even = len(order) // count * count
        turns = [order[start : min(start + size * count, even)] for start in range(0, even, size * count)]
        shared, rest = [(turn[self.accelerator.process_index :: count], len(turn)) for turn in turns], order[even:]
        return [*shared, (rest, len(rest))] if rest else shared
