"""Responses in one sequence: hidden states and gradients equal those of separate ones, or sharing is refused."""

import pytest
import torch
from small_models import SETTINGS, model_of
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hfkit.models.shared_prefixes import padded_sequences, reply_states, sequence_of, sequences_of, shares_prefixes

PROMPT = [20, 21, 22, 23]
REPLIES = {
    "two": [[*PROMPT, 40, 41], [*PROMPT, 50]],
    "three": [[*PROMPT, 40, 41], [*PROMPT, 40, 42, 43], [*PROMPT, 50]],
    "one begins the other": [[*PROMPT, 40, 41], [*PROMPT, 40]],
    "equal": [PROMPT, PROMPT],
    "nothing in common": [[40, 41], [50, 51, 52]],
}
RECURRENT = ("recurrent", "attention and recurrent")


def states_of(model, sequences) -> torch.Tensor:
    return reply_states(model, model.base_model, padded_sequences(sequences, pad_id=0))


@pytest.mark.parametrize("replies", REPLIES.values(), ids=REPLIES)
def test_each_reply_ends_where_it_does_by_itself(replies):
    sequence = sequence_of(replies)
    for branch, (reply, end) in enumerate(zip(replies, sequence.ends, strict=True), 1):
        indices = [index for index, of in enumerate(sequence.branches) if of in (0, branch)]
        assert [sequence.ids[index] for index in indices] == reply
        assert [sequence.positions[index] for index in indices] == [*range(len(reply))]
        assert indices[-1] == end
    assert sum(sequence.readers) == sum(map(len, replies))


@pytest.mark.parametrize("family", [family for family in SETTINGS if family not in RECURRENT])
def test_states_and_gradients_are_those_of_each_reply(family):
    model = model_of(family, 64)
    longest = [[*PROMPT, 40, 41], [*PROMPT, 50]]  # 6 tokens, the window of models that have one
    assert shares_prefixes(model, model.base_model, longest)
    several = [REPLIES["equal"], REPLIES["one begins the other"], longest]
    joined = states_of(model, [sequence_of(replies) for replies in several])
    direction = torch.randn(joined.shape[1], generator=torch.Generator().manual_seed(0))
    (joined @ direction).square().sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    single = torch.cat([states_of(model, [sequence_of([reply])]) for replies in several for reply in replies])
    torch.testing.assert_close(joined, single, rtol=1e-5, atol=1e-5)
    (single @ direction).square().sum().backward()
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(gradients[name], weight.grad, rtol=0, atol=1e-4 * float(weight.grad.abs().max()))


@pytest.mark.parametrize("family", RECURRENT)
def test_a_recurrent_model_shares_nothing(family):
    model = model_of(family, 64)
    assert not shares_prefixes(model, model.base_model, REPLIES["two"])


@pytest.mark.parametrize("family", ["sliding window", "gemma2", "gemma3"])
def test_a_window_shorter_than_a_reply_shares_nothing(family):
    model = model_of(family, 64)
    assert not shares_prefixes(model, model.base_model, [[*PROMPT, 40, 41, 42], [*PROMPT, 50]])


@pytest.mark.parametrize("settings", [("bloom", {}), ("gpt_neo", {"window_size": 4})], ids=lambda one: one[0])
def test_a_model_that_computes_something_else_is_found_by_its_states(settings):
    kind, more = settings
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "n_layer": 2, "n_head": 4}
    sizes |= {"attention_types": [[["local"], 2]]} if kind == "gpt_neo" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=64, initializer_range=0.5, **sizes, **more)
    model = AutoModelForCausalLM.from_config(config)
    replies = [[*PROMPT, *PROMPT, 40, 41, 42], [*PROMPT, *PROMPT, 50]]
    assert not shares_prefixes(model, model.base_model, replies)


def test_a_short_prefix_is_not_shared():
    replies = [[20, *range(30, 50)], [20, *range(31, 55)]]
    assert [one.ids for one in sequences_of(replies, 64)] == replies
    assert len(sequences_of(REPLIES["two"], 64)) == 1
    assert len(sequences_of(REPLIES["two"], None)) == 2


def test_other_attention_implementations_are_not_tested():
    AttentionInterface.register("another", sdpa_attention_forward)
    model = model_of("llama", 64)
    model.set_attn_implementation("another")
    assert not shares_prefixes(model, model.base_model, REPLIES["two"])
