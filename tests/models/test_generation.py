"""Sampling: rows that have ended leave the batch without changing the others."""

import pytest
import torch
from quick import mostly_slow
from small_models import PROMPTS, model_of
from transformers import GenerationConfig

from hfkit.models.generation import CACHE_NAME, STRIDE, generate_replies, likelihoods

LIMIT = 2 * STRIDE + 5


def alone(model, tokenizer, prompt: list[int]) -> list[int]:
    """Return the greedy response of one row in one call, without stop tokens."""
    config = GenerationConfig(max_new_tokens=LIMIT, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    ids = torch.tensor([prompt])
    model.generation_config = GenerationConfig()
    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    "family",
    mostly_slow(
        ["llama", "sliding window", "learned positions", "attention and recurrent", "recurrent"],
        ["llama", "attention and recurrent"],
    ),
)
def test_a_reply_in_a_batch_is_the_reply_alone(tokenizer, family):
    model = model_of(family, len(tokenizer))
    whole = [alone(model, tokenizer, prompt) for prompt in PROMPTS]
    # One row ends at once, one within the second stride, one at its last token, and the others never.
    stop_token_ids = [whole[0][0], whole[1][STRIDE + 3], whole[3][-1]]
    ends = [next((index + 1 for index, token in enumerate(row) if token in stop_token_ids), LIMIT) for row in whole]
    assert len({-(-end // STRIDE) for end in ends}) > 1  # rows end in different strides
    replies = generate_replies(model, tokenizer, PROMPTS, LIMIT, stop_token_ids=stop_token_ids, batch_size=4)
    assert replies == [row[:end] for row, end in zip(whole, ends, strict=True)]


def test_a_mixture_that_was_trained_with_a_router_loss_samples_batches(tokenizer):
    """TRL's SFT saves such a config; Transformers computes the loss of one token with the mask of all."""
    model = model_of("mixture", len(tokenizer))
    expected = generate_replies(model, tokenizer, PROMPTS, 8, stop_token_ids=[1])
    model.config.output_router_logits = True
    assert generate_replies(model, tokenizer, PROMPTS, 8, stop_token_ids=[1]) == expected
    assert model.config.output_router_logits is True


def test_rows_that_have_ended_are_not_computed(tokenizer):
    model, computed = model_of("llama", len(tokenizer)), []
    whole = [alone(model, tokenizer, prompt) for prompt in PROMPTS]
    model.register_forward_hook(lambda module, given, output: computed.append(output.logits.shape[0]))
    stop_token_ids = list({row[2] for row in whole[:4]})
    replies = generate_replies(model, tokenizer, PROMPTS, LIMIT, stop_token_ids=stop_token_ids)
    strides = [-(-len(reply) // STRIDE) * STRIDE for reply in replies]
    assert min(map(len, replies)) <= 3
    assert sum(computed) <= sum(strides) < LIMIT * len(PROMPTS)


def test_the_same_seed_samples_the_same(tokenizer):
    model = model_of("llama", len(tokenizer))
    first, second, third = (
        generate_replies(model, tokenizer, PROMPTS, LIMIT, temperature=1.0, seed=seed) for seed in (0, 0, 1)
    )
    assert first == second != third


@pytest.mark.parametrize("family", ["llama", "sliding window", "learned positions"])
def test_likelihoods_are_those_of_the_row_alone_without_a_cache_or_logits_of_what_is_read(tokenizer, family):
    model, seen = model_of(family, len(tokenizer)), []
    replies = [[40, 41, 42], [43], [44, 45], [46], [47, 48, 49, 50]]
    hook = model.register_forward_hook(lambda *given: seen.append(given[2]))
    found = likelihoods(model, tokenizer, PROMPTS, replies, temperature=0.7, batch_size=2)
    hook.remove()
    assert not any(getattr(out, CACHE_NAME) for out in seen)
    assert {out.logits.shape[1] for out in seen[1:]} == {1}  # all calls after the test of the head
    for prompt, reply, one in zip(PROMPTS, replies, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1)
        assert torch.allclose(one.logprobs, expected[range(len(reply)), reply], atol=1e-5)
        assert torch.allclose(one.entropy, -(expected.exp() * expected).sum(-1), atol=1e-5)


@pytest.mark.parametrize(
    "family",
    mostly_slow(
        ["llama", "sliding window", "learned positions", "mixture", "attention and recurrent"],
        ["llama", "attention and recurrent"],
    ),
)
def test_equal_prompts_are_computed_once_and_sampled_as_before(tokenizer, family):
    model, seen = model_of(family, len(tokenizer)), []
    prompts = [[*range(20, 44)]] * 3 + [[*range(60, 71)]] * 3
    ids, mask = torch.zeros(6, 24, dtype=torch.long), torch.zeros(6, 24, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = torch.tensor(prompt), 1
    sampling = {"max_new_tokens": 8, "do_sample": True, "temperature": 0.5, "top_k": 0}
    config = GenerationConfig(**sampling, pad_token_id=tokenizer.pad_token_id)
    model.generation_config = GenerationConfig()
    torch.manual_seed(0)
    expected = model.generate(ids, attention_mask=mask, generation_config=config)[:, 24:].tolist()
    model.register_forward_pre_hook(
        lambda module, given, inputs: seen.append(inputs["input_ids"].shape), with_kwargs=True
    )
    sampled = {"temperature": 0.5, "seed": 0, "stop_token_ids": [len(tokenizer) + 1]}
    assert generate_replies(model, tokenizer, prompts, 8, **sampled) == expected
    assert len({*map(tuple, expected)}) > 2
    assert (seen[0], seen[1]) == ((2, 23), (6, 24) if family == "attention and recurrent" else (6, 1))


def test_prompts_of_one_token_are_computed_with_the_rest(tokenizer):
    model = model_of("llama", len(tokenizer))
    prompts = [[20]] * 3 + [[*range(60, 90)]] * 3
    whole = [alone(model, tokenizer, prompt) for prompt in prompts]
    assert generate_replies(model, tokenizer, prompts, LIMIT, stop_token_ids=[len(tokenizer) + 1]) == whole
