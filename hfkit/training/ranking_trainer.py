"""Trains reward models on rankings: all pairs of a prompt in one step (Ouyang et al. 2022, arXiv 2203.02155, 3.5).

A batch of B rankings of K replies is B x K rows; each is computed once, and the scores form the pairs.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedTokenizerBase
from trl import RewardTrainer

from hfkit.core.compat import EncodedRows


@dataclass
class RankingCollator:
    """Collates rankings into one batch.

    Returns `input_ids` and `attention_mask` (replies, T), padded on the right; `pairs` (2, N), the rows of the better
    and of the worse reply; `weights` (N,), which weigh every ranking alike; `margin` (N,) if the rows have it.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        replies, pairs, weights = [], [], []
        for row in rows:
            pairs.append(torch.tensor([row["better"], row["worse"]]) + len(replies))
            weights += [1 / len(rows) / len(row["better"])] * len(row["better"])
            replies += row["reply_ids"]
        options = {"pad_to_multiple_of": self.pad_to_multiple_of, "return_tensors": "pt"}
        padded = self.tokenizer.pad({"input_ids": replies}, padding_side="right", **options)
        margin = [margin for row in rows for margin in row.get("margin", [])]
        return {
            **padded,
            "pairs": torch.cat(pairs, dim=1),
            "weights": torch.tensor(weights),
            **({"margin": torch.tensor(margin)} if margin else {}),
        }


class RankingTrainer(EncodedRows, RewardTrainer):
    """TRL's trainer on encoded rankings: its metrics are over all pairs, and the loss weighs every ranking alike.

    The loss of a ranking is -1/N sum log sigmoid(r_better - r_worse - margin) over its N pairs without a tie, N =
    K(K-1)/2 where no two replies are tied; that of a batch is the mean over its rankings.
    """

    def compute_loss(self, model, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """Return the loss of a batch of `RankingCollator`, and the model's outputs if asked for.

        Their `logits` are the scores (2N, 1) of the better replies, then of the worse.
        """
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
        losses = -logsigmoid(better - worse - inputs.get("margin", 0.0))
        if self.args.center_rewards_coefficient is not None:
            losses = losses + self.args.center_rewards_coefficient * (better + worse) ** 2
        loss = (weights * losses).sum()
        return (loss, outputs) if return_outputs else loss
