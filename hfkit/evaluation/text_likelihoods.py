"""Measures how likely a language model finds texts."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.data.encoding import count_ids
from hfkit.data.forms import IGNORE
from hfkit.models.micro_batches import batches_by_length, call_tokens
from hfkit.models.token_predictions import cross_entropy, measure_predictions


@dataclass
class TextLikelihoods:
    """For each of N texts, as (N,): negative log-likelihood in nats, predicted tokens, and their bytes in UTF-8."""

    nats: np.ndarray
    tokens: np.ndarray
    sizes: np.ndarray


@torch.no_grad()
def text_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int = 8
) -> TextLikelihoods:
    """Return how likely a model finds the labeled tokens of encoded rows (`input_ids`, `labels`).

    If the first token of a text has a label, the text follows an end-of-text token, as in pretraining.
    """
    measured: list = [None] * len(rows)
    model.eval()
    lengths = count_ids(rows.select_columns("input_ids").with_format("arrow")[:]["input_ids"])
    for part in batches_by_length(lengths, batch_size, call_tokens(model)):
        indices = part.tolist()
        batch = rows[indices]
        pairs = [prepend_eos(*pair, tokenizer) for pair in zip(batch["input_ids"], batch["labels"], strict=True)]
        nats = label_nats(model, tokenizer, pairs)
        for index, (_, labels) in enumerate(pairs):
            predicted = [label for label in labels[1:] if label != IGNORE]
            text = "" if "bytes" in batch else tokenizer.decode(predicted, skip_special_tokens=True)
            size = batch["bytes"][index] if "bytes" in batch else len(text.encode())
            measured[indices[index]] = (nats[index], len(predicted), size)
    return TextLikelihoods(*map(np.array, zip(*measured, strict=True)))


def label_nats(model, tokenizer, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
    """Return the negative log-likelihood of each row's labels, in nats; a row is its ids and labels."""
    ids = {"input_ids": [ids for ids, _ in pairs]}
    padded = tokenizer.pad(ids, padding_side="right", return_tensors="pt").to(model.device)
    inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
    width = inputs["input_ids"].shape[1]
    rows = [labels[1:] + [IGNORE] * (width + 1 - len(labels)) for _, labels in pairs]
    targets = torch.tensor(rows, device=model.device)
    (nats,) = measure_predictions(model, inputs, targets, cross_entropy)
    return [float(one.sum()) for one in nats.split((targets != IGNORE).sum(1).tolist())]


def prepend_eos(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return ids and labels, with an end-of-text token before them if the first token has a label.

    The row then drops its last id, from which nothing is predicted, so its length does not grow.
    """
    if labels[0] == IGNORE or ids[0] in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return ids, labels
    return [tokenizer.eos_token_id, *ids[:-1]], [IGNORE, *labels]
