"""Rows are cut into the cheapest micro-batches."""

from itertools import combinations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hfkit.models.micro_batches import call_tokens, micro_batches

CALL = 32


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

    found = micro_batches(lengths, limit, CALL, sequences)
    assert sorted(np.concatenate(found)) == list(range(count))
    least = min(cost_of(parts, lengths, sequences, CALL, limit) for parts in every)
    assert cost_of(found, lengths, sequences, CALL, limit) == least

    for wanted in range(1, count + 1):
        costs = [cost_of(parts, lengths, sequences, 0, limit) for parts in every if len(parts) == wanted]
        if np.isfinite(min(costs)):
            found = micro_batches(lengths, limit, CALL, sequences, count=wanted)
            assert len(found) == wanted
            assert cost_of(found, lengths, sequences, 0, limit) == min(costs)


def test_many_rows_are_cut_within_the_limit():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    parts = micro_batches(lengths, 400, CALL)
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert max(len(part) * lengths[part].max() for part in parts) <= 400


def test_a_large_model_on_a_gpu_gets_more_calls_than_a_small_one_and_a_cpu_most():
    lengths = [1000, 900, 600, 500, 200, 100] * 4
    models = [llama("meta", 30, 576, 1536, 9, 3), llama("meta", 32, 4096, 14336, 32, 8), llama("cpu", 2, 32, 64, 2, 2)]
    calls = [*map(call_tokens, models)]
    assert 50_000 < calls[0] < 60_000 and 900 < calls[1] < 1_200 and calls[2] < 100
    counts = [len(micro_batches(lengths, 100_000, call)) for call in calls]
    assert counts[0] == 1 < counts[1] < counts[2]


def llama(device: str, layers: int, hidden: int, inner: int, heads: int, key_heads: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        return LlamaForCausalLM(config)
