"""The PPO stage: trl's faults that hfkit cures, each seen in what the run does."""

import json
import math
import shutil

import pytest
import torch
from meter import ModelMeter
from ppo_small import models, small_trainer
from quick import slow
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP

from hfkit.core.errors import ConfigError, HfkitError
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record, weights_hash
from hfkit.rlhf.roles import load_roles
from hfkit.rlhf.trainer_checks import validate_trainer_inputs
from hfkit.stages import ppo
from hfkit.training.arguments import trainer_arguments

UPDATES, EPOCHS, MINI_BATCHES = 2, 2, 2  # of conftest's tiny config: 8 episodes in batches of 4


def updates(folder) -> list[dict]:
    return [row for row in read_metrics(folder) if "objective/kl" in row]


def adapter(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def edited(folder, target, **generation):
    """A copy of a model with another generation config."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("checkpoint-*", "hfkit.json"))
    path = target / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    return str(target)


@pytest.fixture(scope="module")
def repetitive(run_stage, base_dir, tmp_path_factory):
    """PPO at learning rate 0 from a model with a repetition penalty and two stop tokens."""
    folder = tmp_path_factory.mktemp("repetitive")
    policy = edited(base_dir, folder / "policy", repetition_penalty=1.5, no_repeat_ngram_size=2, eos_token_id=[0, 4])
    return run_stage("ppo", folder / "ppo", model_name_or_path=policy, learning_rate=0.0)


@pytest.mark.any_device
def test_the_folder_is_an_adapter_on_the_base_with_its_curves_and_samples(ppo_dir, base_dir, sft_dir):
    assert json.loads((ppo_dir / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base_dir)
    assert len(updates(ppo_dir)) == UPDATES
    record = read_record(ppo_dir)
    assert (record["steps"], record["episodes"]) == (UPDATES, 8)
    assert [parent["role"] for parent in record["lineage"]] == ["start", "reward"]
    samples = [json.loads(line) for line in (ppo_dir / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4
    assert samples[0].keys() == {"prompt", "messages", "before", "after", "reward_before", "reward_after"}


def test_pain_03_the_saved_stop_tokens_are_those_of_the_sft_model(ppo_dir, sft_dir, repetitive):
    saved, theirs = (json.loads((folder / "generation_config.json").read_text()) for folder in (ppo_dir, sft_dir))
    assert saved["eos_token_id"] == theirs["eos_token_id"]
    kept = json.loads((repetitive / "generation_config.json").read_text())
    assert (kept["eos_token_id"], kept["repetition_penalty"]) == ([0, 4], 1.5)


def test_pain_04_a_policy_that_ends_at_once_gives_finite_metrics_at_batch_1(run_stage, base_dir, tmp_path, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    with torch.no_grad():  # one hidden unit is on for every token, and it stands for the end
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
        model.get_input_embeddings().weight[:, 0] = 9.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 9.0
    model.save_pretrained(tmp_path / "ends")
    tokenizer.save_pretrained(tmp_path / "ends")
    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_mini_batches": 1}
    folder = run_stage("ppo", tmp_path / "ppo", model_name_or_path=str(tmp_path / "ends"), **changes, total_episodes=4)
    rows = updates(folder)
    assert len(rows) == 2
    assert {key for row in rows for key, value in row.items() if not math.isfinite(value)} == set()


def test_pain_05_at_learning_rate_0_the_kl_is_0_whatever_the_generation_config(repetitive):
    rows = updates(repetitive)
    assert len(rows) == UPDATES
    assert max(abs(row["objective/kl"]) for row in rows) < 1e-4


def test_pain_11_at_learning_rate_0_the_ratio_is_1(repetitive):
    rows = updates(repetitive)
    assert [row["val/ratio"] for row in rows] == pytest.approx([1.0] * UPDATES, abs=1e-5)


@pytest.mark.parametrize(
    "base", [slow({}), {"load_in_4bit": True}, slow({"use_peft": False})], ids=["lora", "4-bit", "full"]
)
def test_at_learning_rate_0_nothing_moves_and_each_step_is_made(sft_dir, reward_dir, run_stage, tmp_path, base):
    """KL 0 and ratio 1 in every update, however it is cut into mini-batches and micro-batches."""
    steps = []
    handle = register_optimizer_step_post_hook(lambda optimizer, args, kwargs: steps.append(1))
    try:
        run_stage("ppo", tmp_path / "out", learning_rate=0.0, total_episodes=12, **base)
    finally:
        handle.remove()
    rows = updates(tmp_path / "out")
    assert len(steps) == 3 * EPOCHS * MINI_BATCHES
    assert [row["val/ratio"] for row in rows] == pytest.approx([1.0] * 3, abs=1e-6)
    assert max(abs(row["objective/kl"]) for row in rows) < 1e-4
    assert max(row["policy/approxkl_avg"] for row in rows) < 1e-6


@pytest.mark.any_device
def test_pain_06_the_first_kl_is_0(ppo_dir):
    first, second = (row["objective/kl"] for row in updates(ppo_dir))
    assert abs(first) < 1e-4 < abs(second)


@pytest.mark.any_device
def test_pain_07_the_adapter_trains_and_the_base_does_not(ppo_dir, sft_dir, base_dir):
    before, after = adapter(sft_dir), adapter(ppo_dir)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_right_padding_a_frozen_policy_and_a_shared_value_model_are_refused(config_of, sft_dir, tmp_path):
    config = config_of("ppo", tmp_path)
    roles = load_roles(config)
    tokenizer = load_tokenizer(str(sft_dir))
    rows = [{"input_ids": [5]}] * 8
    tokenizer.padding_side = "right"
    with pytest.raises(HfkitError, match="padded on the left"):
        validate_trainer_inputs(trainer_arguments(config), tokenizer, roles.policy, roles.reward, rows, roles.reward)
    tokenizer.padding_side = "left"
    with pytest.raises(HfkitError, match="value_model is the same object as reward_model"):
        validate_trainer_inputs(trainer_arguments(config), tokenizer, roles.policy, roles.reward, rows, roles.reward)
    roles.policy.requires_grad_(False)
    with pytest.raises(HfkitError, match="the policy has nothing to train"):
        validate_trainer_inputs(trainer_arguments(config), tokenizer, roles.policy, roles.reward, rows, roles.value)


@pytest.mark.parametrize("by", ["fp16", "ACCELERATE_MIXED_PRECISION"])
def test_fp16_is_refused_by_its_key(by, tokenizer, tmp_path, monkeypatch):
    """The accelerator would put a scaler of gradients before losses that nobody scales."""
    if by != "fp16":
        monkeypatch.setenv(by, "fp16")
    with pytest.raises(ConfigError, match=f"{by}: ('fp16'|True) -> .* set bf16, or remove it"):
        small_trainer(tokenizer, tmp_path, models("llama", lora=True), **({"fp16": True} if by == "fp16" else {}))


def test_the_roles_share_the_frozen_base_and_nothing_else(config_of, tmp_path):
    roles = load_roles(config_of("ppo", tmp_path))
    for one, other in ((roles.policy, roles.reference), (roles.reward, roles.value)):
        pairs = [(n, p, q) for (n, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True)]
        assert all((p is q) == (".lora_" not in n and "modules_to_save" not in n) for n, p, q in pairs)
        assert all(torch.equal(p, q) for _, p, q in pairs)
    assert not any(p.requires_grad for model in (roles.reference, roles.reward) for p in model.parameters())


@pytest.mark.parametrize("mini_batches", [slow(1), 2])
def test_pain_10_and_11_gradients_are_clipped_and_every_optimizer_step_is_made(
    run_stage, sft_dir, reward_dir, tmp_path, mini_batches
):
    norms = []

    def record(optimizer, args, kwargs):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))

    handle = register_optimizer_step_post_hook(record)
    try:
        run_stage("ppo", tmp_path / "out", max_grad_norm=1e-3, num_mini_batches=mini_batches)
    finally:
        handle.remove()
    assert len(norms) == UPDATES * EPOCHS * mini_batches
    assert max(norms) == pytest.approx(1e-3, rel=1e-2)


def test_pain_12_fewer_prompts_than_a_batch_are_refused_before_a_model_is_loaded(config_of, tmp_path):
    config = config_of("ppo", tmp_path / "out", per_device_train_batch_size=8, total_episodes=16)
    with ModelMeter(PreTrainedModel) as meter, pytest.raises(HfkitError, match="8 prompts < batch of 16"):
        ppo.main(config)
    assert meter.most == 0


def test_pain_13_a_reward_model_with_ids_that_it_has_no_weights_for_is_refused(config_of, tmp_path, reward_dir):
    """Another tokenizer is allowed, and text is rendered for it; one with more ids than the embedding is refused."""
    folder = shutil.copytree(reward_dir, tmp_path / "stranger", ignore=shutil.ignore_patterns("checkpoint-*"))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens([f"<{number}>" for number in range(9)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="embedding has only 318 rows") as reported:
        config_of("ppo", tmp_path / "out", reward_model_path=str(folder))
    assert [problem.key for problem in reported.value.problems] == ["reward_model_path"]


@pytest.mark.any_device
def test_pain_14_the_reward_model_stays_as_it_was(ppo_dir, reward_dir):
    assert read_record(ppo_dir)["lineage"][1]["weights_sha256"] == weights_hash(reward_dir)


@pytest.mark.slow
def test_pain_21_the_same_seed_gives_the_same_weights_and_another_gives_others(run_stage, ppo_dir, tmp_path):
    again, other = (run_stage("ppo", tmp_path / str(seed), test_split_size=4, seed=seed) for seed in (42, 43))
    ours = adapter(ppo_dir)
    assert [name for name, value in adapter(again).items() if not torch.equal(value, ours[name])] == []
    assert any(not torch.equal(value, ours[name]) for name, value in adapter(other).items())


@pytest.fixture(scope="module")
def stopped(run_stage, tmp_path_factory):
    """Eight updates asked for, with a limit that any positive KL passes."""
    return run_stage("ppo", tmp_path_factory.mktemp("stopped") / "ppo", max_kl=1e-6, total_episodes=32)


@pytest.mark.slow
@pytest.mark.any_device
def test_pain_20_ppo_stops_with_its_reason_past_the_kl_limit(stopped):
    record = read_record(stopped)
    assert record["status"] == "done"
    assert "exceeds max_kl=1e-06" in record["stopped"]
    assert "raise kl_coef or lower learning_rate" in record["stopped"]
    assert len(updates(stopped)) < 8


@pytest.mark.slow
def test_a_run_stopped_by_the_kl_limit_still_counts_its_steps(stopped):
    record = read_record(stopped)
    assert record["steps"] == len(updates(stopped))
    assert record["episodes"] == 4 * record["steps"]


@pytest.mark.slow
def test_ppo_raises_the_reward(run_stage, base_dir, reward_dir, tmp_path):
    """A head that likes the end of text teaches the policy to end: responses grow shorter and rewards higher."""
    changes = {"learning_rate": 5e-3, "missing_eos_penalty": 5.0, "kl_coef": 0.0, "max_kl": 1000.0}
    folder = run_stage("ppo", tmp_path / "out", **changes, total_episodes=96, test_split_size=4)
    metrics = read_record(folder)["metrics"]
    rows = updates(folder)
    rlhf = [row["objective/rlhf_reward"] for row in rows]
    assert sum(rlhf[-6:]) > sum(rlhf[:6])
    assert metrics["eval_length_ppo"] < metrics["eval_length_sft"]


def test_a_whole_policy_and_a_whole_value_model_train(run_stage, sft_dir, tmp_path):
    folder = run_stage("ppo", tmp_path / "out", use_peft=False)
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "adapter_config.json").exists()
    assert abs(updates(folder)[0]["objective/kl"]) < 1e-4


@pytest.fixture
def blocks_of(run_stage, sft_dir, reward_dir, tmp_path):
    """Runs an update of PPO; returns how often a block of its models was entered, and the dtypes that came out."""

    def run(**changes) -> tuple[int, list[torch.dtype]]:
        entered, left = [], []
        hooks = [
            register_module_forward_pre_hook(lambda module, _: entered.append(isinstance(module, LlamaMLP))),
            register_module_forward_hook(
                lambda module, _, out: left.append(isinstance(module, LlamaMLP) and out.dtype)
            ),
        ]
        try:
            run_stage("ppo", tmp_path / str(changes), **changes, total_episodes=4)
        finally:
            for hook in hooks:
                hook.remove()
        return sum(entered), [dtype for dtype in left if dtype]

    return run


def test_pain_09_checkpointing_reaches_policy_and_value_and_bf16_is_honoured(blocks_of):
    passes, layers, models = EPOCHS * 2, 2, 2
    entered, dtypes = blocks_of(gradient_checkpointing=False)
    assert set(dtypes) == {torch.float32}
    assert blocks_of(gradient_checkpointing=True)[0] - entered == passes * layers * models  # each recomputed once
    # in rollouts, in the probes before and in the comparison after it as well: flash attention runs in nothing else
    assert set(blocks_of(bf16=True, test_split_size=4)[1]) == {torch.bfloat16}


@pytest.mark.any_device
@pytest.mark.parametrize("dtype", [slow("float32"), "bfloat16"])
def test_under_bf16_the_first_kl_is_0_and_the_policy_learns_over_its_base(run_stage, base_dir, tmp_path, dtype):
    before = weights_hash(base_dir)
    folder = run_stage("ppo", tmp_path / "out", bf16=True, dtype=dtype)
    first, *_, last = (row["objective/kl"] for row in updates(folder))
    assert abs(first) < 1e-6 < abs(last)
    assert read_record(folder)["rollout_engine"] == "transformers.generate, bf16, adapter merged"
    assert weights_hash(base_dir) == before


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"num_mini_batches": 3}, ["num_mini_batches"]),
        ({"response_length": 300}, ["response_length"]),
        ({"lora_dropout": 0.1}, ["lora_dropout"]),
        ({"reward_model_path": "/no/such/folder"}, ["reward_model_path"]),
        ({"neftune_noise_alpha": 5}, ["neftune_noise_alpha"]),
        ({"eval_strategy": "steps"}, ["eval_strategy"]),
        ({"whiten_rewards": True}, ["whiten_rewards"]),
    ],
)
def test_pain_15_what_ppo_would_ignore_or_cannot_do_is_refused_by_its_key(config_of, tmp_path, changes, keys):
    with pytest.raises(ConfigError) as reported:
        config_of("ppo", tmp_path, **changes)
    assert [problem.key for problem in reported.value.problems] == keys


@pytest.mark.parametrize(
    ("variables", "lora", "settings", "remedy"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, False, {}, "all weights with FSDP2"),
        ({"ACCELERATE_USE_FSDP": "true"}, True, {}, "train adapters with DDP"),
        ({"ACCELERATE_USE_FSDP": "true"}, False, {"rollout_engine": "static"}, "set generate"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, False, {}, "fsdp_offload_params: false"),
    ],
)
def test_launches_that_it_cannot_train_in_are_refused(
    variables, lora, settings, remedy, tokenizer, tmp_path, monkeypatch
):
    parts = models("llama", lora=lora)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HfkitError, match=remedy):
        small_trainer(tokenizer, tmp_path, parts, **settings)
