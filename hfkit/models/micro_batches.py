"""Cuts the rows of a step into micro-batches of like length, so that a model computes little padding."""

import numpy as np
from numpy.typing import ArrayLike
from peft import PeftModel
from transformers import PreTrainedModel

from hfkit.models.zero import parameter_count

BLOCK = 256
"""Rows that are cut together, at most: the cost of all cuts of N rows takes N x N numbers."""
CALL_ON_CPU = 32
"""Tokens that a CPU computes in the time that one more call of a model takes."""
LAYER_CALL = 2.5e11
"""Multiplications with additions that a GPU does while the kernels of one layer are launched: 2 ms at 250 TFLOP/s. The
backward pass takes about twice as many of both."""


def call_tokens(model: PreTrainedModel | PeftModel) -> int:
    """Return the tokens that a model computes in the time that one more call of it takes.

    Launches bound a GPU: a model of 135M parameters computes a whole batch while its next call is launched, and one of
    8B about a thousand tokens.
    """
    if model.device.type == "cpu":
        return CALL_ON_CPU
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = whole.config.get_text_config(decoder=True).num_hidden_layers
    return round(LAYER_CALL * layers / parameter_count(whole))


def micro_batches(
    lengths: ArrayLike, max_tokens: int, call: int, sequences: ArrayLike | None = None, count: int = 0
) -> list[np.ndarray]:
    """Cut rows into micro-batches so that calls and padded tokens together cost least; the longest rows come first.

    Args:
        lengths: tokens of the longest sequence of each row, (N,).
        max_tokens: of a micro-batch, padding included; a longer row is one of its own.
        call: tokens that take as long as one more call of the model (`call_tokens`).
        sequences: sequences of each row, (N,); none: 1 each.
        count: number of micro-batches, from the least that `max_tokens` allows up to N; 0: as many as are best.

    Returns:
        the indices of the rows of each micro-batch.
    """
    lengths = np.asarray(lengths)
    sequences = np.ones_like(lengths) if sequences is None else np.asarray(sequences)
    order = np.argsort(-lengths, kind="stable")
    parts = []
    for block in [order] if count else [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]:
        costs = part_costs(lengths[block], sequences[block], max_tokens)
        cuts = cuts_into(costs, count) if count else cheapest_cuts(costs + call)
        parts += np.split(block, cuts)
    return parts


def batches_by_length(lengths: ArrayLike, batch_size: int, call: int) -> list[np.ndarray]:
    """Return the rows of each batch, of like length and of no more tokens than `batch_size` of the longest rows."""
    return micro_batches(lengths, batch_size * max(lengths, default=0), call)


def round_up(width: int, multiple: int | None) -> int:
    """Return the next multiple that is no less than a number of columns."""
    multiple = multiple or 1
    return -(-width // multiple) * multiple


def part_costs(lengths: np.ndarray, sequences: np.ndarray, max_tokens: int) -> np.ndarray:
    """Return the padded tokens of each part of rows in descending order of length, (N, N + 1).

    Entry [x, y] is about the part from row x up to row y - 1; it is infinite where that is no part.
    """
    ends = np.concatenate([[0], np.cumsum(sequences)])
    costs = (ends[None, :] - ends[:-1, None]) * lengths[:, None].astype(float)
    size = np.arange(len(lengths) + 1)[None, :] - np.arange(len(lengths))[:, None]
    return np.where((size == 1) | ((size > 1) & (costs <= max_tokens)), costs, np.inf)


def cheapest_cuts(costs: np.ndarray) -> list[int]:
    """Return where the parts begin, except the first, whose costs have the least sum."""
    best, begins = np.zeros(costs.shape[1]), [0]
    for end in range(1, len(best)):
        totals = best[:end] + costs[:end, end]
        begins.append(int(totals.argmin()))
        best[end] = totals[begins[-1]]
    cuts, end = [], begins[-1]
    while end:
        cuts.insert(0, end)
        end = begins[end]
    return cuts


def cuts_into(costs: np.ndarray, count: int) -> list[int]:
    """Return where the parts begin, except the first, of the `count` parts whose costs have the least sum."""
    best, begins = costs[0], []
    for _ in range(count - 1):
        totals = best[:-1, None] + costs
        begins.append(totals.argmin(0))
        best = totals.min(0)
    cuts, end = [], costs.shape[1] - 1
    for begin in reversed(begins):
        end = int(begin[end])
        cuts.insert(0, end)
    return cuts
