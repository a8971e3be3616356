"""Collates pairs and rankings into batches: sequences of responses, and the pairs among them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer

from hfkit.data.encoding import pair_lengths
from hfkit.models.output_head import causal_model
from hfkit.models.shared_prefixes import ReplySequence, padded_sequences, sequences_of, sharing_width
from hfkit.training.micro_batching import Batch


@dataclass
class Comparisons:
    """The responses of several encoded pairs or rankings, and the pairs among them.

    Attributes:
        sequences: of the responses, in their order.
        owner: index of the ranking of each sequence.
        better, worse: indices of the responses of each pair.
        weights: of each pair, so that every ranking has the same weight.
        margins: of each pair; [] if the rows have none.
    """

    sequences: list[ReplySequence] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    better: list[int] = field(default_factory=list)
    worse: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[dict], count: int, width: int | None) -> "Comparisons":
        """Return the comparisons of `count` rows; `width` as of `sequences_of`."""
        made, first = cls(), 0
        for index, row in enumerate(rows):
            is_pair = "chosen_ids" in row
            better, worse = ([0], [1]) if is_pair else (row["better"], row["worse"])
            replies = replies_of(row)
            sequences = sequences_of(replies, width)
            made.sequences += sequences
            made.owner += [index] * len(sequences)
            made.better += [first + index for index in better]
            made.worse += [first + index for index in worse]
            made.weights += [1 / count / len(better)] * len(better)
            if "margin" in row:
                made.margins += [row["margin"]] if is_pair else row["margin"]
            first += len(replies)
        return made


def replies_of(row: dict) -> list[list[int]]:
    """Return the token ids of each response of an encoded pair or ranking."""
    return [row["chosen_ids"], row["rejected_ids"]] if "chosen_ids" in row else row["reply_ids"]


@dataclass
class ComparisonCollator:
    """Collates encoded pairs or rankings of R responses into one batch of S sequences, padded on the right.

    Returns `input_ids`, `position_ids`, `branches` (see `shared_prefixes`) and `attention_mask`, how many responses a
    token is part of, (S, T) each; `ends` (2, R), the sequence and the index of the last token of each response; `pairs`
    (2, N), the better and the worse response of each; `weights` (N,), which give every ranking the same weight;
    `margin` (N,) if the rows have it; `row` (S,), the ranking of each sequence.

    Args:
        width: as of `sharing_width`, if responses to one prompt share sequences.
    """

    tokenizer: PreTrainedTokenizerBase
    width: int | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict]) -> Batch:
        made = Comparisons.of(rows, len(rows), self.width)
        return {
            **padded_sequences(made.sequences, self.tokenizer.pad_token_id, self.pad_to_multiple_of),
            "pairs": torch.tensor([made.better, made.worse]),
            "weights": torch.tensor(made.weights),
            "row": torch.tensor(made.owner),
            **({"margin": torch.tensor(made.margins)} if made.margins else {}),
        }


def longest_replies(*datasets: Dataset | None) -> list[list[int]]:
    """Return the token ids of the responses of the row with the longest one, of datasets that may be missing."""
    found = []
    for rows in datasets:
        if rows is not None:
            better, worse, owner = pair_lengths(rows.with_format("arrow")[:])
            found.append(replies_of(rows[int(owner[np.maximum(better, worse).argmax()])]))
    return max(found, key=lambda replies: max(map(len, replies)))


def classifier_width(model: torch.nn.Module, *datasets: Dataset | None) -> int | None:
    """Return the `sharing_width` of a classifier, which is tried on the row with the longest response of all rows."""
    return sharing_width(model, causal_model(model).base_model, longest_replies(*datasets))


def share_prefixes(trainer: Trainer) -> None:
    """Let responses to one prompt share a sequence if they can; all processes that hold parts of the model call it."""
    trainer.data_collator.width = classifier_width(trainer.model, trainer.train_dataset, trainer.eval_dataset)
