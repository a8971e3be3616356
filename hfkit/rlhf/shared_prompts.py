"""Computes responses to the same prompt as one sequence, so that a model reads the prompt once (`shared_prefixes`)."""

from collections.abc import Sequence
from functools import partial
from math import inf

import torch

from hfkit.core.compat import attention_of
from hfkit.models.output_head import causal_model, head_of
from hfkit.models.shared_prefixes import (
    padded_sequences,
    reply_states,
    sequence_of,
    shares_prefixes,
    split_rows,
)
from hfkit.models.token_predictions import chunk_size, logprob_and_entropy, measure_states
from hfkit.rlhf.forward import Model


def can_share_prompts(model: Model, prompt: list[int], response_length: int) -> bool:
    """Return whether a causal LM computes the same for responses that share the sequence of their prompt.

    Args:
        prompt: the longest prompt.
        response_length: most tokens of a response.
    """
    causal = causal_model(model)
    replies = [[*prompt, *((first + index) % 2 for index in range(response_length))] for first in range(2)]
    has_head = head_of(model, torch.tensor([prompt], device=causal.device)) is not None
    is_sdpa = attention_of(causal.config.get_text_config()) == "sdpa"  # eager attention would hold all its scores
    return has_head and is_sdpa and shares_prefixes(model, causal.get_decoder(), replies, logits_to_keep=1)


def token_rows(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """Return the token ids of each row (B, T) without padding."""
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    return [[one for one, is_kept in zip(row, kept, strict=True) if is_kept] for row, kept in rows]


def share_sequences(
    model: torch.nn.Module, prompts: list[list[int]], replies: Sequence[int], most: float = inf
) -> list[list[int]]:
    """Return the rows of each sequence: those of one prompt, in as many sequences as take the least time.

    Args:
        prompts: token ids of each row's prompt.
        replies: tokens of each row's response.
        most: tokens of a sequence with several rows.
    """
    width, by_prompt = causal_model(model).config.get_text_config().hidden_size, dict[tuple[int, ...], list[int]]()
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
        input_ids: prompts and responses, (B, P + R).
        attention_mask: (B, P + R).
        logits_to_keep: R.
        multiple: of which the columns of the sequences are to be a multiple.
    """
    causal, mask = causal_model(model), attention_mask[:, -logits_to_keep:] > 0
    rows, replies = token_rows(input_ids, attention_mask), mask.sum(1).tolist()
    prompts = [row[: len(row) - reply] for row, reply in zip(rows, replies, strict=True)]
    groups = share_sequences(model, prompts, replies)
    sequences = [sequence_of([rows[row] for row in group]) for group in groups]
    batch = {name: one.to(causal.device) for name, one in padded_sequences(sequences, 0, multiple).items()}
    before: list[tuple[int, int]] = []  # where the token before each token of a response is
    for index, (sequence, group) in enumerate(zip(sequences, groups, strict=True)):
        shared = sequence.branches.count(0)
        for row, end in zip(group, sequence.ends, strict=True):
            offset = end - len(rows[row]) + 1  # of the branch to the row
            columns = range(len(prompts[row]) - 1, len(rows[row]) - 1)
            before += [(index, column if column < shared else column + offset) for column in columns]
    order = torch.tensor([row for group in groups for row in group], device=causal.device)
    batch["ends"] = torch.tensor(before, dtype=torch.int64, device=causal.device).view(-1, 2).T
    states = reply_states(model, causal.get_decoder(), batch, logits_to_keep=1)
    measure, mask = partial(logprob_and_entropy, temperature=temperature), mask[order]
    targets = input_ids[order, -logits_to_keep:][mask]
    found = measure_states(head_of(model, input_ids), states, targets, measure, chunk_size(model))
    in_order = (one.new_zeros(mask.shape).masked_scatter(mask, one)[order.argsort()] for one in found)
    logprobs, entropies = in_order
    return logprobs, entropies
