"""Trains reward models on rankings: all pairs of a prompt in one step (Ouyang et al. 2022, arXiv 2203.02155, 3.5).

A pair is a ranking of two. A batch of B rankings of K replies is B x K sequences; each is computed once, and the scores
form the pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput
from trl import RewardTrainer

from hfkit.core.compat import EncodedRows
from hfkit.metrics.preference import metrics_of_rewards
from hfkit.training.micro_batching import Batch, MicroBatching, round_up


def replies_of(row: dict) -> list[list[int]]:
    """Return the token ids of each reply of an encoded pair or ranking."""
    return row["reply_ids"] if "reply_ids" in row else [row["chosen_ids"], row["rejected_ids"]]


def margins_of(row: dict) -> list[float]:
    """Return the margin of each of a row's pairs; [] without margins."""
    margin = row.get("margin", [])
    return margin if isinstance(margin, list) else [margin]


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
        replies, pairs, weights, owner = [], [], [], []
        for index, row in enumerate(rows):
            own = replies_of(row)
            better, worse = row.get("better", [0]), row.get("worse", [1])
            pairs.append(torch.tensor([better, worse]) + len(replies))
            weights += [1 / len(rows) / len(better)] * len(better)
            owner += [index] * len(own)
            replies += own
        options = {"pad_to_multiple_of": self.pad_to_multiple_of, "return_tensors": "pt"}
        padded = self.tokenizer.pad({"input_ids": replies}, padding_side="right", **options)
        margin = [margin for row in rows for margin in margins_of(row)]
        return {
            **padded,
            "pairs": torch.cat(pairs, dim=1),
            "weights": torch.tensor(weights),
            "row": torch.tensor(owner),
            **({"margin": torch.tensor(margin)} if margin else {}),
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

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Compute the loss and `preference.metrics_of_rewards`, whatever the batch size and number of processes."""
        rows = dataloader.dataset
        self.model.eval()
        replies, better, worse, weights, margins = [], [], [], [], []
        for row in rows:
            first, own = len(replies), replies_of(row)
            better += [first + index for index in row.get("better", [0])]
            worse += [first + index for index in row.get("worse", [1])]
            weights += [1 / len(rows) / len(row.get("better", [0]))] * len(row.get("better", [0]))
            margins += margins_of(row)
            replies += own
        scores = self.scores(replies)
        chosen, rejected = scores[better], scores[worse]
        losses = self.pair_losses(chosen, rejected, torch.tensor(margins, device=scores.device) if margins else 0.0)
        metrics = {"loss": float((losses * torch.tensor(weights, device=losses.device)).sum())}
        metrics |= metrics_of_rewards(chosen.cpu().numpy(), rejected.cpu().numpy(), rows)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(None, None, named, len(rows))

    def scores(self, replies: list[list[int]]) -> torch.Tensor:
        """Return the score of each conversation, float64 (N,), computed by all processes together."""
        scores = torch.zeros(len(replies), dtype=torch.float64, device=self.args.device)
        for indices in self.batches_of_replies(replies):
            rows = {"input_ids": [replies[index] for index in indices]}
            batch = self.processing_class.pad(rows, padding_side="right", return_tensors="pt").to(self.args.device)
            with self.accelerator.autocast():
                logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            scores[indices] = logits.squeeze(-1).double()
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return self.accelerator.reduce(scores, "sum")

    def batches_of_replies(self, replies: list[list[int]]) -> Iterator[list[int]]:
        """Yield the replies that this process scores, in batches of like length."""
        order = np.argsort([-len(reply) for reply in replies], kind="stable")
        own = order[self.accelerator.process_index :: self.accelerator.num_processes]
        size = 2 * self.args.per_device_eval_batch_size  # a pair has two
        for start in range(0, len(own), size):
            yield own[start : start + size].tolist()
