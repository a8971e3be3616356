"""How rows are cut into micro-batches."""

from itertools import combinations

import numpy as np
import pytest

from hfkit.models.micro_batches import CALL, micro_batches


def cost_of(parts: list[np.ndarray], lengths: np.ndarray, sequences: np.ndarray, call: int, limit: int) -> float:
    costs = [sequences[part].sum() * lengths[part].max() for part in parts]
    too_large = any(cost > limit and len(part) > 1 for cost, part in zip(costs, parts, strict=True))
    return np.inf if too_large else sum(costs) + call * len(parts)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_of_the_sorted_rows_costs_less(seed):
    draw = np.random.default_rng(seed)
    count, limit = int(draw.integers(1, 8)), int(draw.integers(20, 200))
    lengths, sequences = draw.integers(1, 50, count), draw.integers(1, 4, count)
    order = np.argsort(-lengths, kind="stable")
    every = [np.split(order, [*cuts]) for parts in range(count) for cuts in combinations(range(1, count), parts)]

    found = micro_batches(lengths, limit, "cpu", sequences)
    assert sorted(np.concatenate(found)) == list(range(count))
    least = min(cost_of(parts, lengths, sequences, CALL["cpu"], limit) for parts in every)
    assert cost_of(found, lengths, sequences, CALL["cpu"], limit) == least

    for wanted in range(1, count + 1):
        costs = [cost_of(parts, lengths, sequences, 0, limit) for parts in every if len(parts) == wanted]
        if np.isfinite(min(costs)):
            found = micro_batches(lengths, limit, "cpu", sequences, count=wanted)
            assert len(found) == wanted
            assert cost_of(found, lengths, sequences, 0, limit) == min(costs)


def test_many_rows_are_cut_within_the_limit():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    parts = micro_batches(lengths, 400)
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert max(len(part) * lengths[part].max() for part in parts) <= 400


def test_a_gpu_gets_fewer_calls_than_a_cpu():
    lengths = [100, 90, 60, 50, 20, 10]
    assert len(micro_batches(lengths, 10_000, "cuda")) == 1 < len(micro_batches(lengths, 10_000, "cpu"))
