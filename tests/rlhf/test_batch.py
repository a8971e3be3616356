"""How PPO lays out a batch: rows into micro-batches, as little padding as can be, no more tokens than was allowed."""

from types import SimpleNamespace

import pytest
import torch

from hfkit.data.forms import IGNORE
from hfkit.rlhf.batch import Tokens, cut_rows, pad_rows

CALL = 32  # tokens that take as long as one more call


def batch_of(lengths: list[tuple[int, int]]) -> Tokens:
    """Prompts and responses of these lengths."""
    rows = [([1] * prompt, [2] * reply) for prompt, reply in lengths]
    return Tokens.from_lists(*map(list, zip(*rows, strict=True)), pad_id=0, device="cpu")


def random_lengths(count: int, seed: int) -> list[tuple[int, int]]:
    """Responses of very different lengths."""
    rng = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, 9, (count,), generator=rng).tolist()
    replies = torch.empty(count).exponential_(0.2, generator=rng).clamp(1, 30).long().tolist()
    return list(zip(prompts, replies, strict=True))


def arguments(**settings) -> SimpleNamespace:
    """Those that decide how rows are cut."""
    defaults = {"per_device_train_batch_size": 2, "max_tokens_per_micro_batch": None, "micro_batches_by_length": True}
    return SimpleNamespace(**{**defaults, **settings})


@pytest.mark.parametrize(("left", "expected"), [(True, [[9, 9], [9, 5], [6, 7]]), (False, [[9, 9], [5, 9], [6, 7]])])
def test_rows_are_padded_with_integers_even_if_the_first_is_empty(left, expected):
    ids, mask = pad_rows([[], [5], [6, 7]], 9, left)
    assert ids.dtype == torch.int64 and ids.tolist() == expected
    assert mask.tolist() == [[token != 9 for token in row] for row in expected]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_part_has_more_tokens_than_a_batch_of_the_longest_rows(size):
    lengths = random_lengths(12, 0)
    tokens, index = batch_of(lengths), torch.tensor([7, 2, 11, 5, 3, 0])
    parts = cut_rows(tokens, index, arguments(per_device_train_batch_size=size), CALL)
    assert sorted(torch.cat(parts).tolist()) == sorted(index.tolist())
    sizes = [tokens.select(part).model_inputs()["input_ids"].numel() for part in parts]
    assert max(sizes) <= size * max(map(sum, lengths))


def test_a_budget_of_tokens_is_kept():
    lengths = random_lengths(12, 1)
    longest = max(map(sum, lengths))
    parts = cut_rows(batch_of(lengths), torch.arange(12), arguments(max_tokens_per_micro_batch=longest), CALL)
    assert max(len(part) * max(sum(lengths[row]) for row in part) for part in parts) <= longest


def test_short_rows_go_together_and_long_ones_alone():
    lengths = [(20, 60), *[(20, 10)] * 5]
    parts = cut_rows(batch_of(lengths), torch.arange(6), arguments(per_device_train_batch_size=3), CALL)
    assert [part.tolist() for part in parts] == [[0], [1, 2, 3, 4, 5]]


def test_rows_stay_in_their_batches_where_length_must_not_decide():
    settings = arguments(micro_batches_by_length=False)
    parts = cut_rows(batch_of(random_lengths(5, 2)), torch.tensor([4, 1, 0, 3, 2]), settings, CALL)
    assert [part.tolist() for part in parts] == [[4, 1], [0, 3], [2]]


def test_targets_are_the_replies_after_the_last_token_before_them():
    tokens = batch_of([(2, 3), (4, 1)])
    assert tokens.model_inputs()["input_ids"].tolist() == [[1, 1, 2, 2], [1, 1, 1, 1]]
    assert tokens.targets().tolist() == [[IGNORE, 2, 2, 2], [IGNORE, IGNORE, IGNORE, 2]]
