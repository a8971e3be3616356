"""Every engine samples from the model: greedily like `generate`, at a temperature by the model's probabilities."""

import typing
from math import sqrt

import pytest
import torch
from quick import mostly_slow
from small_models import PROMPTS, model_of

from hfkit.config.fields import EngineName
from hfkit.core.errors import HfkitError
from hfkit.models.engine_support import engine_fault
from hfkit.models.engines import CACHE_STEP, ENGINES, ContinuousEngine, StaticEngine
from hfkit.models.generation import generate_replies, likelihoods

OTHERS = [name for name in ENGINES if name != "generate"]
FAMILIES = ["llama", "sliding window", "learned positions", "gemma3", "qwen3", "mixture"]
LIMIT = 37


@pytest.fixture
def uncompiled():
    """Use the static cache without torch.compile, which takes half a minute per architecture."""
    with torch.compiler.set_stance("force_eager"):
        yield


def test_the_keys_offer_the_engines():
    assert [*ENGINES] == [*typing.get_args(EngineName)]


@pytest.mark.any_device
@pytest.mark.parametrize("family", mostly_slow(FAMILIES, ["llama"]))
@pytest.mark.parametrize("name", OTHERS)
def test_greedy_replies_are_those_of_generate(uncompiled, tokenizer, name, family):
    model = model_of(family, len(tokenizer))
    assert engine_fault(name, model.config) is None
    whole = generate_replies(model, tokenizer, PROMPTS, LIMIT, stop_token_ids=[1], batch_size=2)
    stop_token_ids = [whole[0][0], whole[1][20], whole[3][-1]]
    expected = generate_replies(model, tokenizer, PROMPTS, LIMIT, stop_token_ids=stop_token_ids, batch_size=2)
    assert len({*map(len, expected)}) > 1
    before = torch.get_rng_state()
    engine = ENGINES[name](model, tokenizer)
    for _ in range(2):  # the second time reuses the first cache
        assert generate_replies(model, tokenizer, PROMPTS, LIMIT, 0, 0, 2, stop_token_ids, engine=engine) == expected
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_static_cache_holds_what_autocast_computes_over_a_base_in_float32(uncompiled, tokenizer):
    model = model_of("llama", len(tokenizer))
    made = {}
    for name in ("generate", "static"):
        engine = ENGINES[name](model, tokenizer, bf16=True)
        made[name] = generate_replies(model, tokenizer, PROMPTS, LIMIT, 0, 0, 2, [1], engine=engine)
    assert made["static"] == made["generate"]


@pytest.mark.slow
def test_compiled_replies_are_those_of_generate(tokenizer):
    model = model_of("llama", len(tokenizer))
    expected = generate_replies(model, tokenizer, PROMPTS[:4], LIMIT, batch_size=4)
    compiled = []
    torch.compiler.reset()
    engine = StaticEngine(model, tokenizer)
    for prompts in (PROMPTS[:4], PROMPTS[3::-1]):
        replies = generate_replies(model, tokenizer, prompts, LIMIT, batch_size=4, engine=engine)
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert replies == (expected if prompts == PROMPTS[:4] else expected[::-1])
    assert compiled[0] == compiled[1] > 0
    assert [*engine.caches] == [(4, CACHE_STEP)]
    engine.release()
    assert not engine.caches


@pytest.mark.any_device
@pytest.mark.parametrize("temperature", mostly_slow([0.5, 1.0], [0.5]))
@pytest.mark.parametrize("name", ENGINES)
def test_replies_are_drawn_by_the_probabilities_at_the_temperature(uncompiled, tokenizer, name, temperature):
    """The mean log-probability of drawn tokens is minus the entropy; top-k or another temperature changes it."""
    model, prompts = model_of("llama", len(tokenizer), spread=0.35), PROMPTS * 40
    model.generation_config.top_k = model.generation_config.repetition_penalty = 3
    engine = ENGINES[name](model, tokenizer)
    limits = (6, temperature, 1, 50, [tokenizer.eos_token_id])
    replies = generate_replies(model, tokenizer, prompts, *limits, engine=engine)
    found = likelihoods(model, tokenizer, prompts, replies, temperature)
    surplus = torch.cat([one.logprobs + one.entropy for one in found])
    assert torch.cat([one.entropy for one in found]).mean() > 1
    assert abs(float(surplus.mean())) < 4 * float(surplus.std()) / sqrt(len(surplus))
    first = [reply[0] for reply in replies[::5]]  # of the same prompt
    assert len({*first}) > 10
    assert model.generation_config.top_k == 3


@pytest.mark.parametrize("name", mostly_slow(ENGINES, ["generate"]))
def test_a_seed_reproduces_replies(uncompiled, tokenizer, name):
    model = model_of("llama", len(tokenizer))
    engine = ENGINES[name](model, tokenizer)
    limits = (9, 1.0, 3, [tokenizer.eos_token_id])
    first, again, other = (
        generate_replies(model, tokenizer, PROMPTS, *limits[:2], seed, *limits[2:], engine=engine) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert engine.sample(PROMPTS, *limits) != engine.sample(PROMPTS, *limits)  # the global generator has advanced


@pytest.mark.any_device
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_samples_with_the_current_weights(uncompiled, tokenizer, name):
    model, other = (model_of("llama", len(tokenizer), seed=seed) for seed in (0, 1))
    expected = [generate_replies(one, tokenizer, PROMPTS, 9) for one in (model, other)]
    engine = ENGINES[name](model, tokenizer)
    replies = [engine.sample(PROMPTS, 9, 0.0, 5)]
    engine.release()
    model.load_state_dict(other.state_dict())
    engine.sync()
    assert [*replies, engine.sample(PROMPTS, 9, 0.0, 5)] == expected
    assert expected[0] != expected[1]


@pytest.mark.parametrize("family", ["attention and recurrent", "recurrent"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_recurrent_state_has_no_static_or_paged_cache(tokenizer, name, family):
    fault = engine_fault(name, model_of(family, len(tokenizer)).config)
    assert fault and fault.endswith("set rollout_engine: generate")


def test_models_that_an_engine_does_not_support(tokenizer, monkeypatch):
    llama, capped = (model_of(family, len(tokenizer)).config for family in ("llama", "gemma2"))
    assert engine_fault("static", llama, bits=4, merges=True) is None
    assert "in 4 bits without merge_in_rollouts" in engine_fault("static", llama, bits=4)
    assert "in 8 bits" in engine_fault("static", llama, bits=8, merges=True)
    assert "soft cap" in engine_fault("continuous", capped)
    assert engine_fault("static", capped) is None
    assert "flex_attention" in engine_fault("continuous", llama, attention="flex_attention")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in engine_fault("continuous", llama)
    assert engine_fault("static", llama) is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "C++ compiler" in engine_fault("static", llama)


def test_a_failure_of_continuous_batching_is_an_error(tokenizer):
    model = model_of("llama", len(tokenizer))
    beyond = len(tokenizer) + 5
    with pytest.raises(HfkitError, match="continuous batching failed"):
        ContinuousEngine(model, tokenizer).sample([[beyond, beyond]], 4, 0.0, 1)
