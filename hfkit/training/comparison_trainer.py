"""Trains reward models on rankings: all pairs of a prompt in one step (Ouyang et al. 2022, arXiv 2203.02155, 3.5).

A pair is a ranking of two. A batch of B rankings of K replies is B x K sequences; each is computed once, and the scores
form the pairs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import PreTrainedTokenizerBase
from trl import RewardTrainer

from hfkit.core.compat import EncodedRows
from hfkit.metrics.preference import metrics_of_rewards
from hfkit.models.micro_batches import batches_by_length
from hfkit.training.micro_batching import Batch, MicroBatching, round_up


@dataclass
class Comparisons:
    """The replies of several encoded pairs or rankings, and the pairs among them.

    Attributes:
        replies: token ids of each.
        owner: the ranking that each reply is of.
        better, worse: the replies of each pair.
        weights: of each pair, so that every ranking weighs alike.
        margins: of each pair; [] if the rows have none.
    """

    replies: list[list[int]] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    better: list[int] = field(default_factory=list)
    worse: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[dict], count: int) -> "Comparisons":
        """Return those of `count` rows."""
        made = cls()
        for index, row in enumerate(rows):
            first, is_pair = len(made.replies), "chosen_ids" in row
            better, worse = ([0], [1]) if is_pair else (row["better"], row["worse"])
            own = [row["chosen_ids"], row["rejected_ids"]] if is_pair else row["reply_ids"]
            made.replies += own
            made.owner += [index] * len(own)
            made.better += [first + place for place in better]
            made.worse += [first + place for place in worse]
            made.weights += [1 / count / len(better)] * len(better)
            if "margin" in row:
                made.margins += [row["margin"]] if is_pair else row["margin"]
        return made


@dataclass
class ComparisonCollator:
    """Collates encoded pairs or rankings into one batch.

    Returns `input_ids` and `attention_mask` (replies, T), padded on the right; `pairs` (2, N), the rows of the better
    and of the worse reply; `weights` (N,), which weigh every ranking alike; `margin` (N,) if the rows have it; `row`
    (replies,), which ranking a reply is of.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict]) -> Batch:
        made = Comparisons.of(rows, len(rows))
        options = {"pad_to_multiple_of": self.pad_to_multiple_of, "return_tensors": "pt"}
        return {
            **self.tokenizer.pad({"input_ids": made.replies}, padding_side="right", **options),
            "pairs": torch.tensor([made.better, made.worse]),
            "weights": torch.tensor(made.weights),
            "row": torch.tensor(made.owner),
            **({"margin": torch.tensor(made.margins)} if made.margins else {}),
        }


class ComparisonTrainer(MicroBatching, EncodedRows, RewardTrainer):
    """TRL's trainer on encoded pairs or rankings: its metrics are over all pairs, and every ranking weighs alike.

    The loss of a ranking is -1/N sum log sigmoid(r_better - r_worse - margin) over its N pairs without a tie, N =
    K(K-1)/2 where no two replies are tied; that of a batch is the mean over its rankings.
    """

    def compute_loss(self, model, inputs: Batch, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss of a batch of `ComparisonCollator`, and the model's outputs if asked for.

        Their `logits` are the scores (2N, 1) of the better replies, then of the worse.
        """
        inputs = {name: tensor for name, tensor in inputs.items() if name != "row"}
        pairs, weights = inputs.pop("pairs"), inputs.pop("weights")
        if self.accelerator.num_processes > 1:  # TRL gathers metrics of equal shapes
            count = torch.tensor([pairs.shape[1]], device=self.accelerator.device)
            missing = int(self.accelerator.gather(count).max()) - pairs.shape[1]
            pairs = torch.cat([pairs, pairs[:, :1].expand(2, missing)], dim=1)
            weights = torch.cat([weights, weights.new_zeros(missing)])
            if "margin" in inputs:
                inputs["margin"] = torch.cat([inputs["margin"], inputs["margin"][:1].expand(missing)])

        def score_pairs(margin=None, **inputs):
            outputs = model(**inputs)
            outputs.logits = outputs.logits[pairs.flatten()]
            return outputs

        _, outputs = super().compute_loss(score_pairs, inputs, return_outputs=True)
        better, worse = outputs.logits.squeeze(-1).chunk(2)
        loss = (weights * self.pair_losses(better, worse, inputs.get("margin", 0.0))).sum()
        return (loss, outputs) if return_outputs else loss

    def pair_losses(self, better: torch.Tensor, worse: torch.Tensor, margin: torch.Tensor | float) -> torch.Tensor:
        """Return the loss of each pair, (N,), from the scores of its replies, (N,) each."""
        losses = -logsigmoid(better - worse - margin)
        if self.args.center_rewards_coefficient is not None:
            losses = losses + self.args.center_rewards_coefficient * (better + worse) ** 2
        return losses

    # Micro-batches

    def adds_up(self, batch: Batch, items: torch.Tensor | int | None) -> bool:
        """Return that a step's loss is the sum of its parts': `weights` makes it one."""
        return True

    def weight(self, batch: Batch) -> torch.Tensor:
        """Return what metrics are a mean over: the number of pairs."""
        return torch.tensor(batch["pairs"].shape[1], device=batch["pairs"].device)

    def join(self, batches: list[Batch]) -> Batch:
        """Return the rows of several batches as one batch."""
        padded = super().join([{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in batches])
        firsts = np.cumsum([0, *(len(batch["input_ids"]) for batch in batches)]).tolist()
        rows = np.cumsum([0, *(int(batch["row"][-1]) + 1 for batch in batches)]).tolist()
        joined = {
            "pairs": torch.cat([batch["pairs"] + first for batch, first in zip(batches, firsts, strict=False)], 1),
            "row": torch.cat([batch["row"] + row for batch, row in zip(batches, rows, strict=False)]),
        }
        others = [name for name in batches[0] if name not in padded and name not in joined]
        return padded | joined | {name: torch.cat([batch[name] for batch in batches]) for name in others}

    def split(self, batch: Batch) -> list[Batch]:
        """Return the micro-batches of a batch, of whole rankings, as many in each process."""
        lengths, owner = batch["attention_mask"].sum(1).cpu().numpy(), batch["row"].cpu().numpy()
        longest = np.zeros(owner[-1] + 1, dtype=lengths.dtype)
        np.maximum.at(longest, owner, lengths)
        return [
            self.select(batch, torch.as_tensor(np.isin(owner, part)), round_up(int(longest[part].max()), self.args))
            for part in self.cut(longest, np.bincount(owner))
        ]

    def select(self, batch: Batch, chosen: torch.Tensor, width: int) -> Batch:
        """Return some replies of a batch and the pairs among them, in `width` columns; `chosen` is bool (replies,)."""
        chosen = chosen.to(batch["row"].device)
        place, pairs = chosen.cumsum(0) - 1, batch["pairs"]
        of_part = chosen[pairs[0]]
        part = {name: batch[name][chosen, :width] for name in ("input_ids", "attention_mask")}
        part |= {"pairs": place[pairs[:, of_part]], "row": batch["row"][chosen]}
        return part | {name: batch[name][of_part] for name in batch if name not in part}

    # Evaluation

    def held_out_figures(self, rows: Dataset) -> dict[str, float]:
        """Return the loss and `preference.metrics_of_rewards`, whatever the batch size and number of processes."""
        made = Comparisons.of(rows, len(rows))
        scores = self.scores(made.replies)
        chosen, rejected = scores[made.better], scores[made.worse]
        weights, margins = (torch.tensor(values, device=scores.device) for values in (made.weights, made.margins))
        losses = self.pair_losses(chosen, rejected, margins if made.margins else 0.0)
        metrics = metrics_of_rewards(chosen.cpu().numpy(), rejected.cpu().numpy(), rows)
        return {"loss": float((losses * weights).sum()), **metrics}

    def scores(self, replies: list[list[int]]) -> torch.Tensor:
        """Return the score of each conversation, float64 (N,), computed by all processes together."""
        scores = torch.zeros(len(replies), dtype=torch.float64, device=self.args.device)
        size = 2 * self.args.per_device_eval_batch_size  # a pair has two
        batches = batches_by_length([*map(len, replies)], size, self.args.device.type)
        for indices in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
            rows = {"input_ids": [replies[index] for index in indices]}
            batch = self.processing_class.pad(rows, padding_side="right", return_tensors="pt").to(self.args.device)
            with self.accelerator.autocast():
                logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            scores[indices] = logits.squeeze(-1).double()
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return self.accelerator.reduce(scores, "sum")
