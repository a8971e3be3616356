"""Losses by chunks of tokens equal those of whole logits, with their gradients, for any head and with less memory."""

import copy
from functools import partial

import pytest
import torch
from meter import TensorMeter
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.data.forms import IGNORE
from hfkit.models import output_head, token_predictions
from hfkit.models.output_head import CAP, SCALES, causal_model, find_scaling
from hfkit.models.summed_losses import sum_losses
from hfkit.models.token_predictions import (
    cross_entropy,
    logprob_and_entropy,
    loss_hit_and_entropy,
    measure_predictions,
)

LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SHARED = {"num_key_value_heads": 1, "head_dim": 8}
HEADS = {
    "untied": ("llama", LLAMA),
    "tied": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "biased": ("phi", {**LLAMA, "resid_pdrop": 0.0}),
    "capped": ("gemma2", {**LLAMA, **SHARED, CAP: 3.0}),
    "multiplied": ("cohere", {**LLAMA, "logit_scale": 0.25}),
    "divided": ("granite", {**LLAMA, "logits_scaling": 4.0}),
    "projected": ("opt", {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "gpt2": ("gpt2", GPT),
}
MEASURES = {
    "cross entropy": cross_entropy,
    "temperature": partial(logprob_and_entropy, temperature=0.7),
    "entropy": partial(logprob_and_entropy, train_entropy=True),
}
IDS = torch.randint(3, 90, (3, 11), generator=torch.Generator().manual_seed(0))
TARGETS = torch.nn.functional.pad(IDS[:, 1:], (0, 1), value=IGNORE)
TARGETS[0, 3:6] = TARGETS[1, 8:] = IGNORE
MASK = torch.ones_like(IDS)
MASK[1, 9:] = 0
INPUTS = {"input_ids": IDS, "attention_mask": MASK}


@pytest.fixture(autouse=True)
def chunks_of_four_tokens(monkeypatch):
    monkeypatch.setitem(token_predictions.LOGITS, "cpu", 4 * 90)


def model_of(head: str) -> torch.nn.Module:
    """Return a tiny model with a kind of head, and weights so large that scale and cap change its predictions."""
    torch.manual_seed(0)
    kind, settings = HEADS[head]
    options = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "dropout": 0.0, "vocab_size": 90}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**options, **settings}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model.eval()


def whole(model, measure):
    """Return the same measures from the logits of the model's forward pass."""
    logits = model(**INPUTS).logits
    return measure(logits[TARGETS != IGNORE].float(), TARGETS[TARGETS != IGNORE])


def gradients(model, measured) -> dict[str, torch.Tensor]:
    """Return the gradients of a sum in which each token and each measure has a different weight."""
    weights = torch.linspace(-1, 1, len(measured[0]))
    sum((1 + index) * (one * weights).sum() for index, one in enumerate(measured) if one.requires_grad).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_as_whole(model, measure, tolerance=1e-6) -> None:
    other = copy.deepcopy(model)
    found, expected = measure_predictions(model, INPUTS, TARGETS, measure), whole(other, measure)
    for one, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(one, reference, rtol=tolerance, atol=tolerance)
    grads, references = gradients(model, found), gradients(other, expected)
    assert grads.keys() == references.keys() and grads
    for name, grad in grads.items():
        error = (grad - references[name]).norm() / references[name].norm().clamp(min=1.0)
        assert error < tolerance, name


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("head", HEADS)
def test_measures_and_gradients_are_those_of_the_whole_logits(head, measure):
    model = model_of(head)
    assert_same_as_whole(model, MEASURES[measure])
    assert output_head.scalings[model] is not None  # computed by chunks


def test_an_adapter_on_the_head_is_computed_and_trained():
    model = adapted_head()
    assert_same_as_whole(model, cross_entropy)
    assert output_head.scalings[causal_model(model)] == (1.0, None)
    assert any("lm_head" in name for name, weight in model.named_parameters() if weight.grad is not None)


def test_under_bf16_autocast_every_weight_has_its_gradient():
    model = model_of("capped")
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_as_whole(model, cross_entropy, 2e-2)
    assert output_head.scalings[model] == (1.0, 3.0)
    assert all(weight.grad is not None for weight in model.parameters())


def adapted_head() -> torch.nn.Module:
    """Return a model with LoRA on its head and random weights everywhere."""
    model = get_peft_model(model_of("untied"), LoraConfig(r=2, target_modules=["q_proj", "lm_head"], lora_dropout=0.0))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    return model


@pytest.mark.parametrize("tokens", [4, 99])
@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("head", [*HEADS, "adapted"])
def test_sums_and_their_gradients_are_those_of_the_whole_logits(head, is_half, tokens, monkeypatch):
    monkeypatch.setitem(token_predictions.LOGITS, "cpu", tokens * 90)  # several chunks, or one
    model = adapted_head() if head == "adapted" else model_of(head)
    other, tolerance = copy.deepcopy(model), 2e-2 if is_half else 1e-5
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        total, hits, entropies = sum_losses(model, INPUTS, TARGETS, loss_hit_and_entropy)
        losses, expected_hits, expected_entropies = whole(other, loss_hit_and_entropy)
    assert float(total) == pytest.approx(float(losses.sum()), rel=tolerance)
    assert torch.equal(hits, expected_hits) and not entropies.requires_grad
    torch.testing.assert_close(entropies, expected_entropies, rtol=tolerance, atol=tolerance)
    (total / 3).backward()
    (losses.sum() / 3).backward()
    references = {name: weight.grad for name, weight in other.named_parameters() if weight.grad is not None}
    assert references
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == (name not in references)
        if name in references:
            assert (weight.grad - references[name]).norm() <= tolerance * references[name].norm().clamp(min=1.0), name


@pytest.mark.parametrize("head", ["capped", "multiplied", "divided"])
def test_a_head_that_does_something_unknown_is_computed_whole(head, monkeypatch):
    monkeypatch.setattr(output_head, "SCALES", ())
    monkeypatch.setattr(output_head, "CAP", "none")
    model = model_of(head)
    assert_same_as_whole(model, cross_entropy)
    assert output_head.scalings[model] is None


def test_a_head_of_two_layers_is_computed_whole():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": 90, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    config = AutoConfig.for_model("modernbert-decoder", **sizes, **tokens, bos_token_id=1)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert_same_as_whole(model, cross_entropy)


def test_every_scale_is_read_from_its_key():
    for key in SCALES:
        config = AutoConfig.for_model("llama", **LLAMA, **{key: 8.0})
        assert {(8.0, None), (1 / 8.0, None), (1.0, None)} <= {*output_head.possible_scalings(config)}


def test_the_test_of_the_head_restores_modes_and_random_numbers():
    model = get_peft_model(model_of("untied"), LoraConfig(r=2, target_modules=["lm_head"], lora_dropout=0.5)).train()
    state = torch.get_rng_state()
    assert find_scaling(causal_model(model), IDS[:1]) == (1.0, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_no_targets_give_no_measures():
    model = model_of("untied")
    (losses,) = measure_predictions(model, INPUTS, torch.full_like(IDS, IGNORE), cross_entropy)
    losses.sum().backward()
    assert losses.shape == (0,)
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("scaling", [None, "found"])
def test_a_large_vocabulary_takes_the_memory_of_a_chunk(scaling, monkeypatch):
    """512 tokens with 64,000 logits each: 125 MiB in float32, several times if they are computed whole."""
    monkeypatch.setitem(token_predictions.LOGITS, "cpu", 1 << 22)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=64_000, **sizes))
    ids = torch.arange(512)[None]
    inputs, targets = {"input_ids": ids}, token_predictions.shifted(ids)
    measure_predictions(model, {"input_ids": ids[:, :64]}, targets[:, :64], cross_entropy)  # tests the head once
    if scaling is None:
        output_head.scalings[model] = None
    with TensorMeter() as meter:
        (losses,) = measure_predictions(model, inputs, targets, cross_entropy)
        losses.sum().backward()
    whole = 4 * 512 * 64_000
    assert meter.peak > 3 * whole if scaling is None else meter.peak < whole


def test_a_sum_is_differentiated_once():
    model = model_of("untied")
    total, *_ = sum_losses(model, INPUTS, TARGETS, loss_hit_and_entropy)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError):  # instead of a gradient that is scaled twice
        total.backward()


def test_gradients_in_float16_stay_in_range_over_many_tokens(monkeypatch):
    """The gradient of a chunk exceeds 65504 as long as the loss is a sum."""
    monkeypatch.setitem(token_predictions.LOGITS, "cpu", 1000 * 90)
    model = model_of("untied")
    with torch.no_grad():
        model.model.norm.weight.fill_(60.0)
    ids = torch.full((1, 3000), 7)
    with torch.autocast("cpu", torch.float16):
        (total,) = sum_losses(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids + 1, cross_entropy)
    (total / ids.numel()).backward()
    assert model.lm_head.weight.grad.isfinite().all()
