"""Computes responses to the same prompt as one sequence, so that a model reads the prompt once (`shared_prefixes`)."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from math import inf

import torch

from hfkit.data.forms import IGNORE
from hfkit.models.shared_prefixes import (
    causal_sharing_width,
    joined_predictions,
    sequence_of,
    split_rows,
    token_rows,
)
from hfkit.models.token_predictions import chunk_size, logprob_and_entropy, measure_states, shifted
from hfkit.rlhf.forward import Model


def prompt_sharing_width(model: Model, prompt: list[int], response_length: int) -> int | None:
    """Return the `causal_sharing_width` of a model for responses that share the sequence of their prompt.

    Args:
        prompt: the longest prompt.
        response_length: most tokens of a response.
    """
    return causal_sharing_width(
        model, [[*prompt, *((first + index) % 2 for index in range(response_length))] for first in range(2)]
    )


def share_sequences(width: int, prompts: list[list[int]], replies: Sequence[int], most: float = inf) -> list[list[int]]:
    """Return the rows of each sequence: those of one prompt, in as many sequences as take the least time.

    Args:
        width: as of `prompt_sharing_width`.
        prompts: token ids of each row's prompt.
        replies: tokens of each row's response.
        most: tokens of a sequence with several rows.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_prompt.setdefault(tuple(prompt), []).append(row)
    parts = [split_rows(rows, len(ids), replies, width, most) for ids, rows in by_prompt.items()]
    return [rows for of_prompt in parts for rows in of_prompt]


def split_sequences(sequences: list[list[int]], count: int) -> list[list[int]]:
    """Return the rows of at least `count` sequences; those with the most rows are halved."""
    sequences = [*sequences]
    while len(sequences) < count:
        rows = max(sequences, key=len)
        sequences.remove(rows)
        sequences += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return sequences


def shared_logprobs(
    model: torch.nn.Module,
    width: int,
    temperature: float,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    logits_to_keep: int,
    multiple: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each response token and, without a gradient, the entropy of its distribution.

    Both are in nats, (B, R), and 0 on padding.

    Args:
        model: a causal LM, with or without an adapter.
        width: as of `prompt_sharing_width`.
        input_ids: prompts and responses, (B, P + R).
        attention_mask: (B, P + R).
        logits_to_keep: R.
        multiple: of which the columns of the sequences are to be a multiple.
    """
    mask = attention_mask > 0
    rows, replies = token_rows(input_ids, mask), mask[:, -logits_to_keep:].sum(1).tolist()
    prompts = [row[: len(row) - reply] for row, reply in zip(rows, replies, strict=True)]
    groups = share_sequences(width, prompts, replies)
    sequences, order = [sequence_of([rows[row] for row in group]) for group in groups], [*chain(*groups)]
    labels = input_ids.masked_fill(~mask, IGNORE)
    labels[:, :-logits_to_keep] = IGNORE
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    predictions = joined_predictions(model, inputs, shifted(labels), sequences, order, multiple)
    found = measure_states(*predictions, partial(logprob_and_entropy, temperature=temperature), chunk_size(model))
    mask = mask[:, -logits_to_keep:]
    logprobs, entropies = (one.new_zeros(mask.shape).masked_scatter(mask, one) for one in found)
    return logprobs, entropies
