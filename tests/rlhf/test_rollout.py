"""PPO samples from the policy alone, up to the token that ends a response, with the adapter merged or not."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, MixtralConfig

from hfkit.models.engines import GenerateEngine
from hfkit.models.loading import load_policy
from hfkit.models.merged_copies import MergedCopies, can_merge
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.metrics_file import read_metrics

ENDS = [0, *range(5, 100)]


@contextmanager
def temporarily_merged(model: PeftModel, bf16: bool = False):
    """The model computes, without gradients, with its adapter merged into copies of its current matrices."""
    copies = MergedCopies(model, bf16)
    copies.sync()
    with copies.active():
        yield


def many_ends(base_dir, target) -> str:
    """The base with a list of stop tokens, and with a generation config that PPO must not sample by."""
    shutil.copytree(base_dir, target, ignore=shutil.ignore_patterns("checkpoint-*", "hfkit.json"))
    path = target / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ENDS, "repetition_penalty": 3.0}))
    return str(target)


def test_what_is_sampled_is_the_policy_whatever_the_generation_config(base_dir, tmp_path):
    """At a temperature near 0 each token is the likeliest one: no repetition penalty took hold."""
    path = many_ends(base_dir, tmp_path / "policy")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), load_tokenizer(path)
    engine = GenerateEngine(model, tokenizer)
    prompts = [tokenizer("Ann likes red.").input_ids[:3], tokenizer("The colour of").input_ids]
    for prompt, reply in zip(prompts, engine.sample(prompts, 12, 1e-4, 2, [0]), strict=True):
        with torch.no_grad():
            likeliest = model(torch.tensor([prompt + reply])).logits.argmax(-1)[0, len(prompt) - 1 : -1]
        assert reply == likeliest.tolist()
    assert model.generation_config.repetition_penalty == 3.0


def test_every_stop_id_ends_a_reply_and_what_ends_pays_nothing(run_stage, base_dir, tmp_path):
    """The penalty is on responses that no stop token closed, be it the tokenizer's or another of the model's."""
    path = many_ends(base_dir, tmp_path / "policy")
    changes = {"missing_eos_penalty": 3.0, "normalize_rewards": False, "total_episodes": 24}
    changes |= {"num_ppo_epochs": 1, "num_mini_batches": 1}
    folder = run_stage("ppo", tmp_path / "out", model_name_or_path=path, **changes)
    rows = [row for row in read_metrics(folder) if "objective/kl" in row]
    for row in rows:
        paid = row["objective/scores"] - row["objective/shaped_scores"]
        assert paid == pytest.approx(3.0 * (1 - row["val/ended"]), abs=1e-5)
    assert 0 < sum(row["val/ended"] for row in rows) < len(rows)


def test_pain_18_replies_that_end_early_are_not_sampled_to_the_limit(base_dir):
    """As many passes as the longest response has tokens."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base_dir), load_tokenizer(str(base_dir))
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    prompts = [tokenizer("Ann likes red.").input_ids[:3], tokenizer("The colour of").input_ids]
    for stop_token_ids in (ENDS, [*range(len(tokenizer))]):
        passes.clear()
        replies = GenerateEngine(model, tokenizer).sample(prompts, 40, 1.0, 2, stop_token_ids)
        assert len(passes) == max(map(len, replies)) < 40
    assert [*map(len, replies)] == [1, 1]


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only", "lora_bias": True}],
    ids=str,
)
def test_an_adapter_that_cannot_be_merged_is_sampled_unmerged(base_dir, changes):
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    assert not can_merge(get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", **changes)))


@pytest.mark.parametrize(
    ("dtype", "bf16", "merges"),
    [
        ("float32", False, True),
        ("float32", True, True),
        ("bfloat16", False, False),
        ("bfloat16", True, True),
        ("float16", True, False),
    ],
)
def test_an_adapter_is_merged_into_float32_and_under_bf16_into_bfloat16(base_dir, dtype, bf16, merges):
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype)
    assert can_merge(get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")), bf16) is merges


def test_experts_are_not_merged():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, vocab_size=32, num_local_experts=2))
    assert not can_merge(base)
    assert not can_merge(get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")))


def test_replies_are_sampled_with_the_adapter_merged_and_the_base_is_left_as_it_was(ppo_dir):
    policy, tokenizer = load_policy(str(ppo_dir))
    assert can_merge(policy)
    prompts = [tokenizer("Ann likes red.").input_ids[:3], tokenizer("The colour of").input_ids]
    weights = {name: (weight, weight.clone()) for name, weight in policy.named_parameters()}
    with torch.no_grad():
        inputs = tokenizer(["Ann likes red"], return_tensors="pt", return_token_type_ids=False)
        adapted = policy(**inputs).logits
        with temporarily_merged(policy):
            assert torch.allclose(policy(**inputs).logits, adapted, atol=1e-5)
            assert any(weight is not policy.get_parameter(name) for name, (weight, _) in weights.items())
        with policy.disable_adapter():
            assert not torch.allclose(policy(**inputs).logits, adapted, atol=1e-4)
    for name, (weight, before) in weights.items():
        assert policy.get_parameter(name) is weight and torch.equal(weight, before), name
    sampled = []
    for merge in (True, False):
        torch.manual_seed(0)
        engine = GenerateEngine(policy, tokenizer, MergedCopies(policy) if merge else None)
        engine.sync()
        sampled.append(engine.sample(prompts, 12, 1.0, 2, [tokenizer.eos_token_id]))
    assert sampled[0] == sampled[1]
    assert torch.equal(policy(**inputs).logits, adapted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_under_bf16_replies_are_sampled_under_the_merge_in_bfloat16(sft_dir, dtype):
    policy, tokenizer = load_policy(str(sft_dir), dtype=dtype)
    weights = {name: (weight, weight.clone()) for name, weight in policy.named_parameters()}
    computed = set()
    head = policy.get_output_embeddings()
    layer = policy.get_base_model().model.layers[0].mlp.up_proj.get_base_layer()
    hooks = [
        head.register_forward_hook(lambda *given: computed.add(given[2].dtype)),
        layer.register_forward_hook(
            lambda module, *_: computed.add((module.weight.dtype, torch.is_autocast_enabled("cpu")))
        ),
    ]
    engine = GenerateEngine(policy, tokenizer, MergedCopies(policy, True), bf16=True)
    engine.sync()
    assert engine.name == "transformers.generate, bf16, adapter merged"
    prompts = [tokenizer("Ann likes red.").input_ids[:3], tokenizer("The colour of").input_ids]
    assert all(engine.sample(prompts, 12, 1.0, 2, [tokenizer.eos_token_id]))
    assert computed == {torch.bfloat16, (torch.bfloat16, True)}
    for hook in hooks:
        hook.remove()
    for name, (weight, before) in weights.items():
        assert policy.get_parameter(name) is weight and torch.equal(weight, before), name


def test_a_change_smaller_than_a_bfloat16_weight_can_hold_is_not_lost_in_the_merge(base_dir):
    """Of a hundredth of a weight's last digit, all the same way: rounded to the nearest, none of it would be left."""
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.bfloat16)
    policy = get_peft_model(base, LoraConfig(r=1, lora_alpha=1, target_modules=["up_proj"]))
    layer = base.model.layers[0].mlp.up_proj
    with torch.no_grad():
        layer.base_layer.weight.fill_(0.5)
        layer.lora_A["default"].weight.fill_(1.0)
        layer.lora_B["default"].weight.fill_(2**-14)
        asked, given = layer.get_delta_weight("default"), []
        torch.manual_seed(0)
        for _ in range(50):
            with temporarily_merged(policy, bf16=True):
                given.append(layer.base_layer.weight.float().mean() - 0.5)
    assert torch.equal((0.5 + asked).bfloat16().float(), torch.full_like(asked, 0.5))
    assert float(sum(given) / 50) == pytest.approx(2**-14, rel=0.1)
