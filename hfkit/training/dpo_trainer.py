"""TRL's DPOTrainer on encoded pairs, in micro-batches of similar length.

The common prefix of the two sequences of a pair is computed once (see `hfkit.models.shared_prefixes`), and logits only
where a token of a response is predicted. TRL's loss gets a batch without the other tokens, which it would mask.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer

from hfkit.config.stages import OF_THE_BATCH
from hfkit.core.compat_logged import logged_counts, pop_logged, weigh_logged
from hfkit.core.compat_trl import EncodedRows, PairOutputs, accept_adapted_reference
from hfkit.core.device import largest_of_processes
from hfkit.data.comparisons import mask_of
from hfkit.data.encoding import pair_lengths
from hfkit.data.forms import IGNORE
from hfkit.models.dropout import turn_off_dropout
from hfkit.models.micro_batches import call_tokens, micro_batches, round_up
from hfkit.models.output_head import Head
from hfkit.models.shared_prefixes import (
    causal_sharing_width,
    joined_predictions,
    sequences_of,
    token_rows,
)
from hfkit.models.token_predictions import (
    chunk_size,
    measure_states,
    pair_values,
    predicting_states,
    shifted,
    to_float32,
)
from hfkit.training.comparison_batches import longest_replies, replies_of
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
        max_tokens: of a micro-batch, padding included; None computes whole batches, and all their tokens.
    """

    def __init__(self, *args, max_tokens: int | None, **kwargs):
        self.computes_all = max_tokens is None
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

    @property
    def reads_replies(self) -> bool:
        """Whether TRL's loss gets the tokens of responses alone.

        The router loss is one of all tokens, and in trl 1.12.0 Liger's loss calls the model itself.
        """
        return not (self.computes_all or self.aux_loss_enabled or getattr(self, "use_liger_kernel", False))

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss of a batch of pairs; the reference is computed first, so that its logits are freed."""
        if not self.reads_replies or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self.precompute_ref_logps:
            found = self.reference_logprobs(self.ref_model, inputs)
            inputs = inputs | dict(zip(REFERENCE, found, strict=True))
        with has_reference_logprobs(self):
            return super().compute_loss(*self.of_replies(model, inputs), num_items_in_batch=num_items_in_batch)

    def of_replies(self, model, batch: Batch) -> tuple[Callable[..., PairOutputs], Batch]:
        """Return what TRL's loss calls as its model, and the batch that it reads.

        A row of that batch has the first token of its sequence, then the tokens of the response.
        """
        is_read = batch["completion_mask"][:, 1:] > 0
        counts = is_read.sum(1).tolist()

        def in_rows(values: torch.Tensor) -> torch.Tensor:
            return pad_sequence(values.split(counts), batch_first=True)

        def predict(fused_lm_head: bool = False, **_) -> PairOutputs:
            with self.accelerator.autocast():
                head, states, targets = self.predictions(model, batch)
                if fused_lm_head:
                    found = measure_states(head, states, targets, pair_values, chunk_size(model))
                    return PairOutputs(None, *map(in_rows, found))
                states = pad(in_rows(states), (0, 0, 0, 1))
                return PairOutputs(to_float32(states if head is None else head(states)))

        names = ("input_ids", "completion_mask")
        read = {name: torch.cat([batch[name][:, :1], in_rows(batch[name][:, 1:][is_read])], 1) for name in names}
        return predict, batch | read

    def predictions(self, model, batch: Batch) -> tuple[Head | None, torch.Tensor, torch.Tensor]:
        """Return the head, the states and the targets of the responses of a batch, as `predicting_states` does."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        targets = shifted(batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORE))
        if self.sharing_width is None:
            return predicting_states(model, inputs, targets)
        pairs = pairs_of(batch)
        sequences = [one for pair in pairs for one in sequences_of(pair, self.sharing_width)]
        order = [row for pair in range(len(pairs)) for row in (pair, pair + len(pairs))]
        return joined_predictions(model, inputs, targets, sequences, order, self.args.pad_to_multiple_of)

    @cached_property
    def sharing_width(self) -> int | None:
        """The `causal_sharing_width` of the model, which is tried on the pair with the longest sequence.

        The noise of NEFTune is that of a sequence, so with it each response has its own.
        """
        if self.args.neftune_noise_alpha:
            return None
        return causal_sharing_width(self.ref_model, longest_replies(self.train_dataset, self.eval_dataset))

    def sizes(self, pairs: Iterable[list[list[int]]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of the longest sequence of each pair, and its number of sequences, 1 or 2, (N,) each."""
        width = self.sharing_width if self.reads_replies else None
        sequences = [sequences_of(pair, width) for pair in pairs]
        tokens = [max(len(one.ids) for one in of_pair) for of_pair in sequences]
        return np.array(tokens), np.array([*map(len, sequences)])

    def compute_ref_log_probs(self, model, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the reference's log-probabilities of both sequences of N pairs, float32 (N,) each.

        TRL computes those of `precompute_ref_log_probs` for whole batches, before it cuts any.
        """
        if not self.max_tokens:
            return self.reference_logprobs(model, inputs)
        found, order = [], []
        for pairs, part in self.split_pairs(inputs):
            found.append(self.reference_logprobs(model, part))
            order.append(pairs)
        chosen, rejected = (torch.cat(side)[torch.cat(order).argsort()] for side in zip(*found, strict=True))
        return chosen, rejected

    def reference_logprobs(self, model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `compute_ref_log_probs` returns, computed at once."""
        return super().compute_ref_log_probs(*(self.of_replies(model, batch) if self.reads_replies else (model, batch)))

    def split(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch, of whole pairs, equally many in each process."""
        return [part for _, part in self.split_pairs(batch)]

    def split_pairs(self, batch: Batch) -> list[tuple[torch.Tensor, Batch]]:
        """Return the micro-batches of a batch, each after the positions of its pairs in the batch, int64 (M,)."""
        count = len(batch["input_ids"]) // 2
        lengths = batch["attention_mask"].sum(1).view(2, count).amax(0).cpu().numpy()
        parts = []
        for part in self.cut(*self.sizes(pairs_of(batch))):
            pairs = torch.as_tensor(part, device=batch["input_ids"].device)
            width = round_up(int(lengths[part].max()), self.args.pad_to_multiple_of)
            both = torch.cat([pairs, pairs + count])
            cut = {name: values[pairs] if name in REFERENCE else values[both, :width] for name, values in batch.items()}
            parts.append((pairs, cut))
        return parts

    def cut(self, lengths: np.ndarray, sequences: np.ndarray | None = None) -> list[np.ndarray]:
        """Return the pairs of each micro-batch, equally many in each process, since TRL gathers their metrics.

        Args:
            lengths: tokens of the longest sequence of each pair, (N,).
            sequences: sequences of each pair, (N,).
        """
        if self.accelerator.num_processes == 1:
            return super().cut(lengths, sequences)
        needed = -(-int(sequences.max()) * len(lengths) * int(lengths.max()) // self.max_tokens)
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
            sizes = self.sizes(map(replies_of, rows))
            batches = micro_batches(sizes[0], 2 * size * int(lengths.max()), call_tokens(self.model), sizes[1])
            return [(batch.tolist(), len(batch)) for batch in batches]
        order = np.argsort(-lengths, kind="stable").tolist()
        even = len(order) // count * count
        turns = [order[start : min(start + size * count, even)] for start in range(0, even, size * count)]
        shared, rest = [(turn[self.accelerator.process_index :: count], len(turn)) for turn in turns], order[even:]
        return [*shared, (rest, len(rest))] if rest else shared


def pairs_of(batch: Batch) -> list[list[list[int]]]:
    """Return the token ids of both sequences of each pair of a batch."""
    rows = token_rows(batch["input_ids"], batch["attention_mask"])
    return [[rows[pair], rows[pair + len(rows) // 2]] for pair in range(len(rows) // 2)]


@contextmanager
def has_reference_logprobs(trainer: DPOTrainer):
    """Let TRL's loss read the log-probabilities of the reference from the batch."""
    is_precomputed, trainer.precompute_ref_logps = trainer.precompute_ref_logps, True
    try:
        yield
    finally:
        trainer.precompute_ref_logps = is_precomputed
