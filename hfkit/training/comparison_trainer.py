"""Trains reward models on rankings: all pairs of a prompt in one step (Ouyang et al. 2022, arXiv 2203.02155, 3.5).

A pair is a ranking of two. Each response is computed once, and the shared beginning of the responses of a ranking once
for all of them (see `hfkit.models.shared_prefixes`); the scores form the pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import RewardTrainer

from hfkit.core.compat_trl import EncodedRows
from hfkit.core.device import largest_of_processes
from hfkit.metrics.preference import metrics_of_rewards
from hfkit.models.dropout import turn_off_dropout
from hfkit.models.micro_batches import batches_by_length, call_tokens, round_up
from hfkit.models.output_head import causal_model
from hfkit.models.shared_prefixes import PER_TOKEN, ReplySequence, padded_sequences, reply_states
from hfkit.training.comparison_batches import Comparisons
from hfkit.training.micro_batching import Batch, MicroBatching


class ComparisonTrainer(MicroBatching, EncodedRows, RewardTrainer):
    """TRL's RewardTrainer on encoded pairs or rankings, with metrics over all pairs and equal weight for every ranking.

    The loss of a ranking is -1/N sum log sigmoid(r_better - r_worse - margin) over its N pairs without a tie, N =
    K(K-1)/2 where no two responses are tied; that of a batch is the mean over its rankings.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.disable_dropout:
            for module in self.model.modules():
                turn_off_dropout(module)

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss of a batch of `ComparisonCollator`, and the model's outputs if requested.

        Their `logits` are the scores (2N, 1) of the better responses, then of the worse ones.
        """
        inputs = dict(inputs)
        pairs, weights = inputs.pop("pairs"), inputs.pop("weights")
        if self.accelerator.num_processes > 1:  # TRL gathers metrics, which must have equal shapes
            missing = largest_of_processes(pairs.shape[1]) - pairs.shape[1]
            pairs = torch.cat([pairs, pairs[:, :1].expand(2, missing)], dim=1)
            weights = torch.cat([weights, weights.new_zeros(missing)])
            if "margin" in inputs:
                inputs["margin"] = torch.cat([inputs["margin"], inputs["margin"][:1].expand(missing)])

        def score_pairs(**inputs):
            with self.accelerator.autocast():
                return Scores(self.scores(model, inputs)[pairs.flatten()])

        _, outputs = super().compute_loss(score_pairs, inputs, return_outputs=True)
        better, worse = outputs.logits.squeeze(-1).chunk(2)
        loss = (weights * self.pair_losses(better, worse, inputs.get("margin", 0.0))).sum()
        return (loss, outputs) if return_outputs else loss

    def scores(self, model, batch: Batch) -> torch.Tensor:
        """Return the score of each response of a batch, (R, 1)."""
        classifier = causal_model(model)
        return classifier.score(reply_states(model, classifier.base_model, batch))

    def pair_losses(self, better: torch.Tensor, worse: torch.Tensor, margin: torch.Tensor | float) -> torch.Tensor:
        """Return the loss of each pair, (N,), from the scores of its responses, (N,) each."""
        losses = -logsigmoid(better - worse - margin)
        if self.args.center_rewards_coefficient is not None:
            losses = losses + self.args.center_rewards_coefficient * (better + worse) ** 2
        return losses

    # Micro-batches

    def adds_up(self, batch: Batch, items: torch.Tensor | int | None) -> bool:
        """Return True: with `weights`, a step's loss is the sum of its parts' losses."""
        return True

    def weight(self, batch: Batch) -> torch.Tensor:
        """Return the number of pairs, over which metrics are averaged."""
        return torch.tensor(batch["pairs"].shape[1], device=batch["pairs"].device)

    def join(self, batches: list[Batch]) -> Batch:
        """Return the rows of several batches as one batch."""
        joined = super().join([{name: batch[name] for name in PER_TOKEN} for batch in batches])
        counts = [(len(batch["input_ids"]), batch["ends"].shape[1], int(batch["row"][-1]) + 1) for batch in batches]
        first = np.cumsum([(0, 0, 0), *counts], axis=0).tolist()  # the sequence, response and ranking before each batch
        several = [*zip(batches, first, strict=False)]
        joined |= {
            "ends": torch.cat([batch["ends"] + batch["ends"].new_tensor([[at[0]], [0]]) for batch, at in several], 1),
            "pairs": torch.cat([batch["pairs"] + at[1] for batch, at in several], 1),
            "row": torch.cat([batch["row"] + at[2] for batch, at in several]),
        }
        others = [name for name in batches[0] if name not in joined]
        return joined | {name: torch.cat([batch[name] for batch in batches]) for name in others}

    def split(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch, in whole rankings and equally many in each process."""
        lengths, owner = (batch["attention_mask"] > 0).sum(1).cpu().numpy(), batch["row"].cpu().numpy()
        longest = np.zeros(owner[-1] + 1, dtype=lengths.dtype)
        np.maximum.at(longest, owner, lengths)
        parts = self.cut(longest, np.bincount(owner))
        widths = [round_up(int(longest[part].max()), self.args.pad_to_multiple_of) for part in parts]
        return [
            self.select(batch, torch.as_tensor(np.isin(owner, part)), width)
            for part, width in zip(parts, widths, strict=True)
        ]

    def select(self, batch: Batch, chosen: torch.Tensor, width: int) -> Batch:
        """Return some sequences of a batch and the pairs among their responses, in `width` columns.

        Args:
            chosen: bool (S,), True for the sequences to return.
        """
        chosen = chosen.to(batch["row"].device)
        has_reply = chosen[batch["ends"][0]]
        has_pair = has_reply[batch["pairs"][0]]
        row, reply = chosen.cumsum(0) - 1, has_reply.cumsum(0) - 1
        ends = batch["ends"][:, has_reply]
        part = {name: batch[name][chosen, :width] for name in PER_TOKEN} | {
            "ends": torch.stack([row[ends[0]], ends[1]]),
            "pairs": reply[batch["pairs"][:, has_pair]],
            "row": batch["row"][chosen],
        }
        return part | {name: batch[name][has_pair] for name in batch if name not in part}

    # Evaluation

    def held_out_figures(self, rows: Dataset) -> dict[str, float]:
        """Return the loss and `preference.metrics_of_rewards`, independent of batch size and number of processes."""
        made = Comparisons.of(rows, len(rows), self.data_collator.width)
        scores = self.all_scores(made.sequences)
        chosen, rejected = scores[made.better], scores[made.worse]
        weights, margins = (torch.tensor(values, device=scores.device) for values in (made.weights, made.margins))
        losses = self.pair_losses(chosen, rejected, margins if made.margins else 0.0)
        metrics = metrics_of_rewards(chosen.cpu().numpy(), rejected.cpu().numpy(), rows)
        return {"loss": float((losses * weights).sum()), **metrics}

    def all_scores(self, sequences: list[ReplySequence]) -> torch.Tensor:
        """Return the score of each response of the sequences, float64 (R,), computed by all processes together."""
        first = np.cumsum([0, *(len(one.ends) for one in sequences)]).tolist()  # index of the first response of each
        scores = torch.zeros(first[-1], dtype=torch.float64, device=self.args.device)
        lengths = [len(one.ids) for one in sequences]
        size = 2 * self.args.per_device_eval_batch_size  # a pair has two sequences
        batches = batches_by_length(lengths, size, call_tokens(self.model))
        for turn in range(0, len(batches), self.accelerator.num_processes):
            index = turn + self.accelerator.process_index
            part = batches[min(index, len(batches) - 1)]  # each process takes part in every pass
            batch = padded_sequences([sequences[row] for row in part], self.processing_class.pad_token_id)
            batch = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            with self.accelerator.autocast():
                found = self.scores(self.model, batch).squeeze(-1).double()
            if index < len(batches):
                scores[[reply for row in part for reply in range(first[row], first[row + 1])]] = found
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return self.accelerator.reduce(scores, "sum")


@dataclass
class Scores:
    """The part of a model's outputs that TRL's RewardTrainer reads: `logits`, (2N, 1)."""

    logits: torch.Tensor
