"""LoRA trains float32 weights on any base, and reward and value heads compute in float32, so small values survive."""

import pytest
import torch
from quick import mostly_slow
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoConfig, AutoModelForSequenceClassification

from hfkit.models.loading import loading_options
from hfkit.models.reward_model import RewardModel, load_reward
from hfkit.models.score_head import compute_head_in_float32, store_head_in_float32
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.batch import Tokens
from hfkit.rlhf.forward import autocast, reply_values
from hfkit.rlhf.roles import load_roles
from hfkit.stages import reward

BASES = {
    "bf16 base": {"dtype": "bfloat16"},
    "bf16 base, autocast": {"dtype": "bfloat16", "bf16": True},
    "4-bit base, autocast": {"load_in_4bit": True, "bf16": True},
    "4-bit bf16 base": {"dtype": "bfloat16", "load_in_4bit": True},
}
QUICK_BASES = ("4-bit base, autocast",)
PROMPTS, REPLIES = ["What does Ann like?", "What does Bob like?"], ["Ann likes red.", "blue"]


@pytest.fixture(params=mostly_slow(BASES, QUICK_BASES))
def base(request) -> dict:
    return BASES[request.param]


@pytest.fixture
def stepped():
    """The dtypes of all weights that an optimizer has updated."""
    dtypes = set()

    def see(optimizer, *_):
        dtypes.update(parameter.dtype for group in optimizer.param_groups for parameter in group["params"])

    hook = register_optimizer_step_post_hook(see)
    yield dtypes
    hook.remove()


@pytest.mark.parametrize("stage", mostly_slow(["pretrain", "sft", "reward", "ppo"], ["reward"]))
def test_what_lora_trains_is_in_float32(stage, base, stepped, run_stage, base_dir, tmp_path):
    again = {"pretrain": {"model_name_or_path": str(base_dir), "model_config": {}, "use_peft": True}}
    run_stage(stage, tmp_path / "run", **base, **again.get(stage, {}))
    assert stepped == {torch.float32}


@pytest.mark.parametrize("rewarded", [{}, {"reward_model_path": None, "reward_functions": ["builtins:len"]}])
def test_policy_and_value_of_ppo_are_trained_in_float32_on_their_base(base, rewarded, config_of, tmp_path):
    roles = load_roles(config_of("ppo", tmp_path / "run", **base, **rewarded))
    for model in (roles.policy, roles.value):
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(*(next(p for p in m.parameters() if not p.requires_grad) for m in (roles.policy, roles.value)))


def test_the_new_adapter_and_head_on_a_whole_reward_model_are_trained_in_float32(run_stage, config_of, tmp_path):
    whole = run_stage("reward", tmp_path / "reward", use_peft=None, max_steps=1)
    roles = load_roles(config_of("ppo", tmp_path / "run", dtype="bfloat16", reward_model_path=str(whole)))
    assert {p.dtype for p in roles.value.parameters() if p.requires_grad} == {torch.float32}
    assert roles.value.get_base_model().model.embed_tokens.weight.dtype == torch.bfloat16


def test_an_update_of_a_millionth_moves_the_head(base, run_stage, tmp_path):
    heads = []
    for rate in (0.0, 1e-6):
        folder = run_stage("reward", tmp_path / str(rate), **base, learning_rate=rate, max_steps=2)
        tensors = load_file(folder / "adapter_model.safetensors")
        heads.append(next(tensor for name, tensor in tensors.items() if "score" in name))
    assert (heads[0] != heads[1]).float().mean() > 0.9


def test_a_head_scores_as_it_did_when_it_was_saved(base, run_stage, config_of, tokenizer, tmp_path, monkeypatch):
    save, scores = reward.save_model, []

    def scored(model, *args):
        scores.append(RewardModel(model, tokenizer)(PROMPTS, REPLIES))
        return save(model, *args)

    monkeypatch.setattr(reward, "save_model", scored)
    folder = run_stage("reward", tmp_path / "run", **base)
    options = loading_options(config_of("reward", tmp_path / "other", **base))
    assert torch.equal(load_reward(str(folder), **options)(PROMPTS, REPLIES), scores[-1])
    roles = load_roles(config_of("ppo", tmp_path / "ppo", **base, reward_model_path=str(folder)))
    for model in (roles.reward, roles.value):
        assert torch.allclose(RewardModel(model, tokenizer)(PROMPTS, REPLIES), scores[-1], atol=1e-6)


def classifier(dtype: str, vocabulary: int):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=vocabulary, num_labels=1, **shape)
    return AutoModelForSequenceClassification.from_config(config, dtype=getattr(torch, dtype)).eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rewards_and_values_are_not_rounded_to_bf16(dtype, tokenizer, tmp_path):
    reward = RewardModel(model := classifier(dtype, len(tokenizer)), tokenizer)
    replies = [[5 + index] for index in range(8)]
    tokens = Tokens.from_lists([[1]] * 8, replies, tokenizer.pad_token_id, torch.device("cpu"))
    args = PPOArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True)
    with torch.no_grad(), autocast(args.bf16, torch.device("cpu")):
        for figures in (reward.score_ids([[1, *reply] for reply in replies]), reply_values(model, tokens)):
            assert figures.dtype == torch.float32
            assert not torch.equal(figures, figures.bfloat16().float())


def test_only_a_head_under_an_adapter_is_widened():
    model = compute_head_in_float32(classifier("bfloat16", vocabulary=9))
    assert model.score.weight.dtype == torch.bfloat16
    assert model(torch.tensor([[1, 2]])).logits.dtype == torch.float32
    store_head_in_float32(model)
    assert model.score.weight.dtype == torch.float32
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_models_that_are_trained_in_bf16_are_warned_of(dtype, run_stage, tmp_path, capsys):
    run_stage("sft", tmp_path / "run", use_peft=None, lora_r=None, dtype=dtype, max_steps=1)
    assert ("which round small updates to 0" in capsys.readouterr().err) == (dtype == "bfloat16")
