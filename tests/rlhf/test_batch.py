"""How PPO lays out a batch: rows into micro-batches, as little padding as can be, no more tokens than was allowed."""

from itertools import combinations, pairwise

import pytest
import torch

from hfkit.rlhf.batch import Tokens, micro_batches


def batch_of(lengths: list[tuple[int, int]]) -> Tokens:
    """Prompts and replies of these lengths."""
    rows = [([1] * prompt, [2] * reply) for prompt, reply in lengths]
    return Tokens.from_lists(*map(list, zip(*rows, strict=True)), pad_id=0, device="cpu")


def random_lengths(count: int, seed: int) -> list[tuple[int, int]]:
    """Replies of very different lengths."""
    rng = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, 9, (count,), generator=rng).tolist()
    replies = torch.empty(count).exponential_(0.2, generator=rng).clamp(1, 30).long().tolist()
    return list(zip(prompts, replies, strict=True))


def fewest_tokens(lengths: list[tuple[int, int]], size: int) -> int:
    """Of all ways to cut the sorted rows into as many parts."""
    rows = sorted(lengths, key=sum, reverse=True)
    most, columns = size * sum(rows[0]), size * max(reply for _, reply in rows)
    found = []
    for cuts in combinations(range(1, len(rows)), -(-len(rows) // size) - 1):
        parts = [rows[start:end] for start, end in pairwise([0, *cuts, len(rows)])]
        costs = [len(part) * sum(part[0]) for part in parts]
        widest = max(len(part) * max(reply for _, reply in part) for part in parts)
        if max(costs) <= most and widest <= columns:
            found.append(sum(costs))
    return min(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "size"), [(1, 4), (5, 8), (7, 1), (9, 2), (12, 4)])
def test_micro_batches_are_cut_where_the_least_is_padded(count, size, seed):
    lengths = random_lengths(count, seed)
    parts = micro_batches(batch_of(lengths), torch.arange(count), size)
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert len(parts) == -(-count // size)
    rows = [[lengths[place] for place in part] for part in parts]
    tokens = [len(part) * max(map(sum, part)) for part in rows]
    assert sum(tokens) == fewest_tokens(lengths, size)
    assert max(tokens) <= size * max(map(sum, lengths))
    longest = max(reply for _, reply in lengths)
    assert all(len(part) * max(reply for _, reply in part) <= size * longest for part in rows)


def test_micro_batches_are_of_the_rows_that_are_named():
    lengths = random_lengths(12, 0)
    index = torch.tensor([7, 2, 11, 5, 3])
    parts = micro_batches(batch_of(lengths), index, 2)
    assert sorted(torch.cat(parts).tolist()) == sorted(index.tolist())


def test_short_rows_go_together_and_long_ones_alone():
    parts = micro_batches(batch_of([(1, 9), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]), torch.arange(6), 3)
    assert [part.tolist() for part in parts] == [[0], [1, 2, 3, 4, 5]]
