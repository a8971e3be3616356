"""Joins responses to one prompt into one sequence, so that a model computes their common prefix once.

A sequence holds the common prefix of the responses, then a branch for the rest of each. A token attends to the prefix
and to its own branch, at positions that continue from the prefix, so its hidden state equals that in a separate
sequence (tree attention: Miao et al. 2023, arXiv 2305.09781, 4.2). This requires attention to all earlier tokens;
`shares_prefixes` detects models that work differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

import torch
from transformers import PreTrainedModel

from hfkit.core.compat import attention_of
from hfkit.core.explain_errors import is_gpu_full
from hfkit.data.forms import IGNORE
from hfkit.models.micro_batches import round_up
from hfkit.models.output_head import Head, causal_model, head_of, joined_to_outputs, last_hidden_states

PADDING = -1
"""The branch of padding; 0 is the prefix, and 1 or more are the responses."""
PER_TOKEN = {"input_ids": "ids", "attention_mask": "readers", "position_ids": "positions", "branches": "branches"}
"""The tensors (B, T) of a batch, by their names in a `ReplySequence`."""
TOLERANCE = 1e-4
"""Tolerance of hidden states, relative to the largest, in float32; 2e-2 in 16 bits."""

ATTENTION = 3
"""Attention takes about as much time as the rest of a layer in sequences of this many times its width, as measured on
a CPU: 0.65 to 0.92 of it. By their operations it would take half."""


@dataclass(frozen=True)
class ReplySequence:
    """A sequence of one or more responses.

    Attributes:
        ids: ids of its T tokens.
        branches: branch of each token, 0 for the prefix.
        positions: position of each token in its response.
        readers: how many responses contain each token.
        ends: index of the last token of each response.
    """

    ids: list[int]
    branches: list[int]
    positions: list[int]
    readers: list[int]
    ends: list[int]

    def tokens_of(self, reply: int) -> list[int]:
        """Return the index of each token of a response."""
        end, shared = self.ends[reply], self.branches.count(0)
        own = self.positions[end] + 1 - shared
        return [*range(shared), *range(end + 1 - own, end + 1)]


def common_prefix(replies: list[list[int]]) -> int:
    """Return how many tokens all responses begin with."""
    different = (index for index, tokens in enumerate(zip(*replies, strict=False)) if len({*tokens}) > 1)
    return next(different, min(map(len, replies)))


def sequence_of(replies: list[list[int]]) -> ReplySequence:
    """Return the sequence of responses, each the token ids of a conversation."""
    shared = common_prefix(replies)
    rests = [reply[shared:] for reply in replies]
    rest = [(token, branch, index) for branch, ids in enumerate(rests, 1) for index, token in enumerate(ids, shared)]
    lasts = accumulate(map(len, rests), initial=shared)
    next(lasts)
    return ReplySequence(
        ids=[*replies[0][:shared], *(token for token, _, _ in rest)],
        branches=[0] * shared + [branch for _, branch, _ in rest],
        positions=[*range(shared), *(index for _, _, index in rest)],
        readers=[len(replies)] * shared + [1] * len(rest),
        ends=[last - 1 if ids else shared - 1 for last, ids in zip(lasts, rests, strict=True)],
    )


def sequences_of(replies: list[list[int]], width: int | None) -> list[ReplySequence]:
    """Return the sequences of responses that take the least time, see `split_rows`; one each if `width` is None."""
    if width is None:
        return [sequence_of([reply]) for reply in replies]
    shared = common_prefix(replies)
    parts = split_rows([*range(len(replies))], shared, [len(reply) - shared for reply in replies], width)
    return [sequence_of([replies[index] for index in part]) for part in parts]


def split_rows(rows: list[int], prompt: int, replies: Sequence[int], width: int, most: float = inf) -> list[list[int]]:
    """Return rows with the same prompt in the parts whose sequences take the least time.

    Each token computes attention with all others of its sequence, so short prompts with long responses are not joined.

    Args:
        prompt: tokens of the prompt.
        replies: tokens of the response of every row, by its number.
        width: as of `sharing_width`.
        most: tokens of a sequence with several rows.
    """
    splits = {}
    for size in range(1, len(rows) + 1):
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        tokens = [prompt + sum(replies[row] for row in part) for part in parts]
        if size == 1 or max(tokens) <= most:
            splits[sum(one * (ATTENTION * width + one) for one in tokens)] = parts
    return splits[min(splits)]


def padded_sequences(
    sequences: list[ReplySequence], pad_id: int, multiple: int | None = None
) -> dict[str, torch.Tensor]:
    """Return sequences as a batch, padded on the right to a multiple.

    Returns:
        `input_ids`, `position_ids`, `branches` and `attention_mask` (how many responses contain a token), int64 (B, T)
        each; `ends` (2, R): the row and the index of the last token of each response.
    """
    width = round_up(max(len(one.ids) for one in sequences), multiple)
    batch, fillings = {}, {"input_ids": pad_id, "branches": PADDING}
    for name, attribute in PER_TOKEN.items():
        values = [getattr(one, attribute) for one in sequences]
        batch[name] = torch.tensor([value + [fillings.get(name, 0)] * (width - len(value)) for value in values])
    ends = [(row, index) for row, one in enumerate(sequences) for index in one.ends]
    return batch | {"ends": torch.tensor(ends).T}


def visible(branches: torch.Tensor) -> torch.Tensor:
    """Return which tokens attend to which, bool (B, 1, T, T), given their branches (B, T)."""
    asking, read = branches[:, :, None], branches[:, None, :]
    return ((read == 0) | (read == asking)).tril()[:, None]


def reply_states(
    model: torch.nn.Module, backbone: PreTrainedModel, batch: dict[str, torch.Tensor], **options: int
) -> torch.Tensor:
    """Return the hidden state of the last token of each response, (R, H).

    Args:
        model: the model to call, which calls the backbone.
        batch: as from `padded_sequences`; other tokens may be in `ends`.
        options: further arguments of the call.
    """
    inputs = {"input_ids": batch["input_ids"], "attention_mask": (batch["attention_mask"] > 0).long()}
    if (batch["branches"] > 0).any():
        mask = visible(batch["branches"])
        if attention_of(backbone.config) == "eager":  # eager attention adds its mask to the scores
            mask = torch.zeros(mask.shape, dtype=backbone.dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(backbone.dtype).min
            )
        inputs |= {"attention_mask": mask, "position_ids": batch["position_ids"]}
    with last_hidden_states(backbone) as states:
        outputs = model(**inputs, use_cache=False, **options)
    rows, indices = batch["ends"]
    return joined_to_outputs(states[0], model, outputs)[rows, indices]


def joined_predictions(
    model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    targets: torch.Tensor,
    sequences: list[ReplySequence],
    order: list[int],
    multiple: int | None = None,
) -> tuple[Head | None, torch.Tensor, torch.Tensor]:
    """Return what `predicting_states` returns, computed from sequences of several rows; its head has to be known.

    Args:
        inputs: `input_ids` and `attention_mask`, (B, T) each.
        targets: the token that follows each position, int64 (B, T), or IGNORE.
        sequences: of all rows.
        order: the row of each response of the sequences.
        multiple: of which the columns of the sequences are to be a multiple.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"] > 0
    head = head_of(model, ids)
    batch = {name: one.to(ids.device) for name, one in padded_sequences(sequences, 0, multiple).items()}
    width = batch["input_ids"].shape[1]
    found = [
        [index * width + token for token in sequence.tokens_of(reply)]
        for index, sequence in enumerate(sequences)
        for reply in range(len(sequence.ends))
    ]
    of_rows = [token for _, tokens in sorted(zip(order, found, strict=True)) for token in tokens]
    where, is_chosen = torch.zeros_like(ids), targets != IGNORE
    where[mask] = torch.tensor(of_rows, device=ids.device)
    batch["ends"] = torch.stack([where[is_chosen] // width, where[is_chosen] % width])
    states = reply_states(model, causal_model(model).get_decoder(), batch, logits_to_keep=1)
    return head, states, targets[is_chosen]


def token_rows(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """Return the token ids of each row (B, T) without padding."""
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    return [[one for one, is_kept in zip(row, kept, strict=True) if is_kept] for row, kept in rows]


def sharing_width(
    model: torch.nn.Module, backbone: PreTrainedModel, replies: list[list[int]], **options: int
) -> int | None:
    """Return the width of a model by which `split_rows` joins responses; None if it cannot share prefixes.

    It is 0 for eager attention, which takes most of the time. See `shares_prefixes` for the arguments.
    """
    if not shares_prefixes(model, backbone, replies, **options):
        return None
    config = backbone.config.get_text_config()
    return 0 if attention_of(config) == "eager" else config.hidden_size


def causal_sharing_width(model: torch.nn.Module, replies: list[list[int]]) -> int | None:
    """Return the `sharing_width` of a causal LM.

    None also if its head, which predicts from states alone, is unknown, and with eager attention, whose scores between
    all tokens of a sequence are kept.
    """
    causal = causal_model(model)
    is_eager = attention_of(causal.config.get_text_config()) == "eager"
    if is_eager or head_of(model, torch.tensor(replies[:1], device=causal.device)) is None:
        return None
    return sharing_width(model, causal.get_decoder(), replies, logits_to_keep=1)


@torch.no_grad()
def shares_prefixes(
    model: torch.nn.Module, backbone: PreTrainedModel, replies: list[list[int]], **options: int
) -> bool:
    """Return whether a model's hidden states of responses are the same in one sequence as in separate ones.

    Args:
        replies: the longest ones that it will read, since some models have a limited window.
        options: further arguments of the model's call.
    """
    config = backbone.config.get_text_config()
    kinds = {*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    window = getattr(config, "sliding_window", None)
    if attention_of(config) not in ("sdpa", "eager") or kinds or (window and window < max(map(len, replies))):
        return False
    was_training = model.training
    model.eval()
    try:
        joined, *single = (
            reply_states(
                model, backbone, {name: tensor.to(backbone.device) for name, tensor in batch.items()}, **options
            )
            for batch in (padded_sequences([sequence_of(some)], 0) for some in (replies, *([one] for one in replies)))
        )
    except (RuntimeError, TypeError, ValueError) as error:  # this architecture supports no such mask, or no positions
        if is_gpu_full(error):
            raise
        return False
    finally:
        model.train(was_training)
    expected = torch.cat(single).float()
    tolerance = TOLERANCE if joined.dtype.itemsize >= 4 else 2e-2
    return bool((joined.float() - expected).abs().max() <= tolerance * expected.abs().max())
