"""One frozen base under the four roles of PPO, whole or quantized: held once, right from the first step, unchanged."""

import copy
import math

import pytest
import torch
from quick import mostly_slow
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import hfkit
from hfkit.core.errors import HfkitError
from hfkit.models.loading import load_base, load_policy, loading_options
from hfkit.models.quantization import quantization_of, quantization_state
from hfkit.models.reward_model import RewardModel, load_reward
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import weights_hash
from hfkit.rlhf.roles import load_roles
from hfkit.rlhf.trainer_checks import validate_trainer_inputs
from hfkit.training.arguments import trainer_arguments

BASES = {"whole": {}, "4-bit": {"load_in_4bit": True}, "8-bit": {"load_in_8bit": True}}
# 8-bit layers round activations too, so a response sampled token by token and the same response scored at once differ.
KL_NOISE = {"whole": 1e-4, "4-bit": 1e-4, "8-bit": 2e-2}
PROMPTS, REPLIES = ["What does Ann like?", "What does Bob like?"], ["Ann likes red.", "blue"]


def tensors(model) -> list[torch.Tensor]:
    """Every tensor that a model holds: parameters, buffers, and the scales of quantized layers."""
    scales = []
    for one in quantization_state(model):
        nested = (one.state2.absmax, one.state2.code, one.offset) if getattr(one, "nested", False) else ()
        scales += [one] if isinstance(one, torch.Tensor) else [one.absmax, one.code, *nested]
    return [*model.parameters(), *model.buffers(), *scales]


def unique_bytes(*models) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for m in models for t in tensors(m)}
    return sum(storages.values())


@pytest.fixture(params=mostly_slow(BASES, ["4-bit"]), scope="module")
def quantized(request) -> dict:
    return BASES[request.param]


@pytest.fixture(scope="module")
def config(quantized, config_of, tmp_path_factory):
    """config(**changes) of PPO on the base in question."""
    return lambda **changes: config_of("ppo", tmp_path_factory.mktemp("ppo") / "run", **quantized, **changes)


@pytest.fixture(scope="module")
def roles(config):
    return load_roles(config())


def test_four_roles_take_the_bytes_of_one_base_and_their_adapters(roles):
    models = (roles.policy, roles.reference, roles.reward, roles.value)
    own = {".lora_", "modules_to_save", "original_module"}
    adapters = sum(
        p.nbytes for model in models for name, p in model.named_parameters() if any(part in name for part in own)
    )
    base = unique_bytes(roles.policy) - sum(p.nbytes for n, p in roles.policy.named_parameters() if ".lora_" in n)
    assert unique_bytes(*models) <= 1.01 * (base + adapters)
    assert unique_bytes(*models) < 0.6 * sum(unique_bytes(model) for model in models)


def test_only_the_adapters_of_policy_and_value_and_the_value_head_train(roles):
    for model in (roles.policy, roles.value):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == {n for n, _ in model.named_parameters() if ".lora_" in n or "modules_to_save" in n}
    assert not any(p.requires_grad for model in (roles.reference, roles.reward) for p in model.parameters())


def test_each_role_computes_what_it_does_alone(roles, config, reward_dir, sft_dir):
    options = loading_options(config())
    reward, tokenizer = load_reward(str(reward_dir), **options), load_policy(str(sft_dir), **options)[1]
    expected = reward(PROMPTS, REPLIES)
    for model in (roles.reward, roles.value):
        assert torch.allclose(RewardModel(model, tokenizer)(PROMPTS, REPLIES), expected, atol=1e-6)
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    alone = load_policy(str(sft_dir), **options)[0]
    with torch.no_grad():
        for model in (roles.policy.eval(), roles.reference):
            assert torch.allclose(model(ids).logits, alone(ids).logits, atol=1e-5)


def updates(folder) -> list[dict]:
    return [row for row in read_metrics(folder) if "objective/kl" in row]


@pytest.fixture(scope="module")
def noise(request, quantized) -> float:
    return next(KL_NOISE[name] for name, flags in BASES.items() if flags == quantized)


@pytest.mark.slow
def test_pain_06_the_first_kl_is_0_and_training_changes_only_the_policy(config, noise, sft_dir, reward_dir, base_dir):
    before = {folder: weights_hash(folder) for folder in (sft_dir, reward_dir, base_dir)}
    folder = hfkit.ppo(config())
    first, second = (row["objective/kl"] for row in updates(folder))
    assert abs(first) < noise < abs(second)
    assert {folder: weights_hash(folder) for folder in before} == before
    old, new = (load_file(f / "adapter_model.safetensors") for f in (sft_dir, folder))
    assert old.keys() == new.keys() and any(not torch.equal(old[name], new[name]) for name in old)


@pytest.mark.slow
def test_pain_05_at_learning_rate_0_the_ratio_is_1_and_the_kl_0(config, noise):
    rows = updates(hfkit.ppo(config(learning_rate=0.0)))
    assert max(abs(row["objective/kl"]) for row in rows) < noise
    assert [row["val/ratio"] for row in rows] == pytest.approx([1.0] * len(rows), abs=noise / 10)


@pytest.mark.slow
def test_checkpointing_and_bf16_reach_the_shared_base(config):
    rows = updates(hfkit.ppo(config(gradient_checkpointing=True, bf16=True)))
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_value_and_policy_train_and_reference_and_reward_do_not(config, monkeypatch):
    from hfkit.stages import ppo

    seen = {}

    def keep(config):
        seen["roles"] = load_roles(config)
        seen["before"] = {
            (role, name): p.detach().clone()
            for role, model in vars(seen["roles"]).items()
            for name, p in model.named_parameters()
        }
        return seen["roles"]

    monkeypatch.setattr(ppo, "load_roles", keep)
    ppo.main(config())
    changed = {
        role
        for role, model in vars(seen["roles"]).items()
        for name, p in model.named_parameters()
        if not torch.equal(p, seen["before"][role, name])
    }
    assert changed == {"policy", "value"}


def test_models_that_cannot_share_a_base_report_why(
    config_of, sft_dir, reward_dir, base_dir, tmp_path, capsys, run_stage
):
    load_roles(config_of("ppo", tmp_path / "full", use_peft=False))
    assert "full fine-tuning trains every weight" in capsys.readouterr().out
    full = run_stage("sft", tmp_path / "sft", use_peft=False, lora_r=None)
    roles = load_roles(config_of("ppo", tmp_path / "mixed", model_name_or_path=str(full)))
    assert "but the reward model's base is" in capsys.readouterr().out
    assert unique_bytes(roles.policy, roles.reward) > 1.5 * unique_bytes(roles.policy)


def test_pain_09_a_quantized_critic_without_an_adapter_is_refused(config_of, sft_dir, base_dir, tokenizer, tmp_path):
    config = config_of("ppo", tmp_path / "run", load_in_4bit=True)
    roles = load_roles(config)
    bare = load_base(str(base_dir), head=AutoModelForSequenceClassification, quantization=quantization_of(vars(config)))
    bare.score.requires_grad_(True)
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    with pytest.raises(HfkitError, match="the value model is quantized and has no adapter"):
        validate_trainer_inputs(
            trainer_arguments(config), left, roles.policy, roles.reward, [{"input_ids": [5]}] * 8, bare
        )
