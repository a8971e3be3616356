"""Groups the rows of a step into micro-batches of similar length, so that a model computes little padding."""

import numpy as np
from numpy.typing import ArrayLike
from peft import PeftModel
from transformers import PreTrainedModel

from hfkit.core.unwrap import without_adapter
from hfkit.models.zero import parameter_count

BLOCK = 256
"""Maximum number of rows that are cut together: the costs of all cuts of N rows take N x N numbers."""
CALL_ON_CPU = 32
"""Tokens that a CPU computes in the time of one more call of a model."""
LAYER_CALL = 2.5e11
"""Multiply-adds that a GPU computes while the kernels of one layer are launched: 2 ms at 250 TFLOP/s. The backward
pass takes about twice as much of both."""


def call_tokens(model: PreTrainedModel | PeftModel) -> int:
    """Return the tokens that a model computes in the time of one more call.

    Kernel launches limit a GPU: a model of 135M parameters computes a whole batch while its next call is launched, one
    of 8B about a thousand tokens.
    """
    if model.device.type == "cpu":
        return CALL_ON_CPU
    whole = without_adapter(model)
    return gpu_call_tokens(whole.config.get_text_config(decoder=True).num_hidden_layers, parameter_count(whole))


def gpu_call_tokens(layers: int, parameters: int) -> int:
    """Return the tokens that a GPU computes while the kernels of one more call are launched."""
    return round(LAYER_CALL * layers / parameters)


def micro_batches(
    lengths: ArrayLike, max_tokens: int, call: int, sequences: ArrayLike | None = None, count: int = 0
) -> list[np.ndarray]:
    """Cut rows into micro-batches with the least total cost of calls and padded tokens; the longest rows come first.

    Args:
        lengths: tokens of the longest sequence of each row, (N,).
        max_tokens: maximum tokens of a micro-batch, including padding; a longer row gets its own.
        call: tokens that take as long as one more call of the model (`call_tokens`).
        sequences: number of sequences of each row, (N,); None: 1 each.
        count: number of micro-batches, from the minimum that `max_tokens` allows up to N; 0: the best number.

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
    """Return the rows of each batch, of similar length, with at most the tokens of `batch_size` longest rows."""
    return micro_batches(lengths, batch_size * max(lengths, default=0), call)


def round_up(width: int, multiple: int | None) -> int:
    """Round a number of columns up to a multiple."""
    multiple = multiple or 1
    return -(-width // multiple) * multiple


def part_costs(lengths: np.ndarray, sequences: np.ndarray, max_tokens: int) -> np.ndarray:
    """Return the padded tokens of each part of the rows, sorted by descending length, (N, N + 1).

    Entry [x, y] is for the part from row x to row y - 1; it is infinite if that is not a valid part.
    """
    ends = np.concatenate([[0], np.cumsum(sequences)])
    costs = (ends[None, :] - ends[:-1, None]) * lengths[:, None].astype(float)
    size = np.arange(len(lengths) + 1)[None, :] - np.arange(len(lengths))[:, None]
    return np.where((size == 1) | ((size > 1) & (costs <= max_tokens)), costs, np.inf)


def cheapest_cuts(costs: np.ndarray) -> list[int]:
    """Return where the parts with the least total cost begin, except the first one."""
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
    """Return where the `count` parts with the least total cost begin, except the first one."""
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
