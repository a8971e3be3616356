"""A 4-bit base with its adapter merged into copies samples like the policy, and is restored afterwards."""

import copy

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from small_models import PROMPTS

from hfkit.models.engines import GenerateEngine
from hfkit.models.generation import generate_replies
from hfkit.models.loading import load_base
from hfkit.models.merged_copies import MergedCopies, can_merge
from hfkit.models.quantization import quantization_of

FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
IDS = torch.tensor([[20, 21, 22, 23, 24]])


def policy_in(bits: dict, base_dir, dtype: str = "float32", **changes):
    """A policy on a quantized base, whose adapter differs from zero."""
    base = load_base(str(base_dir), dtype=dtype, quantization=quantization_of(bits))
    torch.manual_seed(0)
    settings = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **changes}
    return get_peft_model(base, LoraConfig(**settings)).eval()


@pytest.fixture
def policy(base_dir):
    return policy_in(FOUR_BITS, base_dir)


def quantized(model) -> dict:
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def test_greedy_replies_are_those_of_the_model_that_peft_merges(policy, tokenizer):
    whole = copy.deepcopy(policy)
    merged = whole.merge_and_unload().dequantize()  # PEFT quantizes merged weights again
    layers = {name: module.weight for name, module in policy.named_modules() if name.endswith(".base_layer")}
    for name in layers:
        layer = policy.get_submodule(name.removesuffix(".base_layer"))
        exact = (
            bitsandbytes_matrix(layer.base_layer)
            + layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (layer.scaling["default"])
        )
        with torch.no_grad():
            merged.get_submodule(name.removeprefix("base_model.model.").removesuffix(".base_layer")).weight.copy_(exact)
    expected = generate_replies(merged, tokenizer, PROMPTS, 20, stop_token_ids=[1])
    engine = GenerateEngine(policy, tokenizer, MergedCopies(policy))
    engine.sync()
    assert generate_replies(policy, tokenizer, PROMPTS, 20, stop_token_ids=[1], engine=engine) == expected
    with policy.disable_adapter():
        assert generate_replies(policy, tokenizer, PROMPTS, 20, stop_token_ids=[1]) != expected


def bitsandbytes_matrix(layer: Linear4bit) -> torch.Tensor:
    """Return the matrix of a 4-bit layer: its output for the identity."""
    with torch.no_grad():
        return layer(torch.eye(layer.in_features)).T


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]], ids=str)
def test_no_layer_computes_in_4_bits_and_all_is_restored(base_dir, targets):
    policy = policy_in(FOUR_BITS, base_dir, target_modules=targets)
    before, layers, weights = policy(IDS).logits, quantized(policy), dict(policy.named_parameters())
    assert can_merge(policy) and len(layers) == 14
    copies = MergedCopies(policy)
    copies.sync()
    with copies.active():
        assert not quantized(policy)
        assert torch.allclose(policy(IDS).logits, before, atol=1e-4)
        assert not policy(IDS).logits.requires_grad
    assert quantized(policy) == layers
    assert all(policy.get_parameter(name) is weight for name, weight in weights.items())
    assert torch.equal(policy(IDS).logits, before) and before.requires_grad
    assert policy.get_base_model().hf_quantizer is not None
    held = sum(one.nbytes for one in copies.copies.values())
    assert held < copies.bytes < 2 * held
    copies.free()
    assert not copies.copies


def test_the_copies_follow_the_adapter_at_the_same_addresses(policy):
    copies = MergedCopies(policy)
    copies.sync()
    addresses = [one.data_ptr() for one in copies.copies.values()]
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-1)
    expected = policy(IDS).logits
    copies.sync()
    with copies.active():
        assert torch.allclose(policy(IDS).logits, expected, atol=1e-4)
    assert [one.data_ptr() for one in copies.copies.values()] == addresses


def test_under_bf16_the_copies_are_in_bfloat16(policy, tokenizer):
    copies = MergedCopies(policy, bf16=True)
    assert (copies.dtype, MergedCopies(policy).dtype) == (torch.bfloat16, torch.float32)
    copies.sync()
    assert {one.dtype for one in copies.copies.values()} == {torch.bfloat16}
    expected = policy(IDS).logits.log_softmax(-1)
    with copies.active(), torch.autocast("cpu", torch.bfloat16):
        found = policy(IDS).logits.float().log_softmax(-1)
    assert (found - expected).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("bits", "dtype", "changes", "merges"),
    [
        (FOUR_BITS, "bfloat16", {}, True),
        (FOUR_BITS, "float16", {}, False),
        (FOUR_BITS, "float32", {"use_dora": True}, False),
        ({"load_in_8bit": True}, "float32", {}, False),
    ],
    ids=str,
)
def test_which_quantized_bases_are_merged(base_dir, bits, dtype, changes, merges):
    assert can_merge(policy_in(bits, base_dir, dtype, **changes)) is merges
