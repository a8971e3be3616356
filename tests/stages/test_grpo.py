"""GRPO and RLOO, end to end: what a run publishes, logs, refuses, and resumes to."""

import json
import os
import shutil
import signal
from itertools import product

import pytest
import torch
from config_problems import problems
from interruption import assert_same_run, stopped_copy
from peft import PeftModel
from quick import mostly_slow, slow
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hfkit.core.errors import ConfigError, HfkitError
from hfkit.core.interrupts import Interrupted
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.rlhf.online_batches import OnlineBatches
from hfkit.rlhf.rollout import Rollouts

METHODS = ("grpo", "rloo")
ALIGNED = {"max_steps": 6}  # four updates are an epoch
UNALIGNED = {"max_steps": 6, "steps_per_generation": 4, "num_iterations": 2}  # responses last for four updates
LENGTHS = {"aligned": ALIGNED, "within a batch": UNALIGNED}


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


in_grpo = pytest.mark.parametrize("method", mostly_slow(METHODS, ["grpo"]), indirect=True)
"""What both methods do by the same code: RLOO does it in `make test-slow`."""


@pytest.fixture(scope="module")
def folder(run_stage, method, tmp_path_factory):
    """Three updates with held-out prompts, of which each is evaluated and sampled."""
    changes = {"test_split_size": 4, "max_steps": 3, "sample_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    return run_stage(method, tmp_path_factory.mktemp(method) / "run", **changes)


def updates(folder) -> list[dict]:
    return [row for row in read_metrics(folder) if "objective/scores" in row]


def test_a_run_publishes_one_adapter_that_moved_and_plain_peft_loads(folder, sft_dir, base_dir):
    before, after = (load_file(path / "adapter_model.safetensors") for path in (sft_dir, folder))
    assert before.keys() == after.keys() and not [*folder.glob("**/ref")]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), folder)
    loaded = {name: values for name, values in model.state_dict().items() if "lora_" in name}
    assert all(torch.equal(values, after[name.replace(".default", "")]) for name, values in loaded.items())


def test_metrics_have_the_names_of_ppo(folder, method):
    rows = updates(folder)
    names = {"objective/kl", "objective/scores", "objective/entropy", "val/reply_length", "val/repetition", "val/ended"}
    assert len(rows) == 3 and all(names <= row.keys() for row in rows)
    for row in rows:
        if method == "rloo":  # GRPO measures it in passes with different numbers of tokens
            assert row["objective/kl"] == pytest.approx(row["kl"] * row["completions/mean_length"], abs=1e-6)
        assert row["val/ended"] <= 1 - row["completions/clipped_ratio"]  # TRL takes a sampled pad token for an end
    evaluated = [row for row in read_metrics(folder) if "eval_reward" in row]
    assert len(evaluated) == 3 and {"eval_kl", "eval_entropy", "eval_length"} <= evaluated[0].keys()
    metrics = read_record(folder)["metrics"]
    assert {"reward_first", "kl_last", "kl_max", "eval_kl", "eval_reward_sft"} <= metrics.keys()
    assert metrics["eval_kl"] == pytest.approx(evaluated[-1]["eval_kl"])  # of the same prompts, with the same seeds


def test_samples_of_the_training_and_of_held_out_prompts_are_kept(folder):
    sampled = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert [*dict.fromkeys(row["step"] for row in sampled)] == [1, 2, 3]
    held_out = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(held_out) == 4
    assert held_out[0].keys() == {"prompt", "messages", "before", "after", "reward_before", "reward_after"}
    assert "real" in read_record(folder)["reward_probes"]


@in_grpo
@pytest.mark.parametrize(
    "base", [{}, slow({"load_in_4bit": True}), slow({"use_peft": False})], ids=["lora", "4-bit", "full"]
)
def test_at_learning_rate_0_the_ratio_is_1_and_the_kl_0(run_stage, method, tmp_path, base_dir, base):
    """From a model with two stop tokens, and a repetition penalty that must not be sampled with."""
    policy = tmp_path / "policy"
    shutil.copytree(base_dir, policy, ignore=shutil.ignore_patterns("checkpoint-*", "hfkit.json"))
    path = policy / "generation_config.json"
    generation = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "eos_token_id": [0, 4, *range(60, 90)]}
    path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    changes = {"learning_rate": 0.0, "num_iterations": 2, "max_steps": 4, "model_name_or_path": str(policy)}
    if method == "grpo":
        changes |= {"loss_type": "grpo"}
    rows = updates(run_stage(method, tmp_path / "out", **changes, **base))
    assert len(rows) == 4 and {row["clip_ratio/region_mean"] for row in read_metrics(tmp_path / "out")} == {0.0}
    assert max(abs(row["objective/kl"]) for row in rows) < 1e-4
    # the mean of the advantages, which are 0 on average in each group; of RLOO too
    assert max(abs(row["loss"]) for row in read_metrics(tmp_path / "out")) < 1e-5
    assert 0 < rows[0]["val/ended"] == pytest.approx(1 - rows[0]["completions/clipped_ratio"])


def length(prompts, replies, **_) -> list[float]:
    return [float(len(reply)) for reply in replies]


@in_grpo
def test_a_reward_model_and_functions_are_weighted_as_in_ppo(run_stage, method, tmp_path):
    parts = {"reward_functions": [f"{__name__}:length"], "reward_weights": [2.0, 0.5], "missing_eos_penalty": 3.0}
    row = updates(run_stage(method, tmp_path / "run", max_steps=1, reward_clip=4.0, **parts))[0]
    model, function = row["objective/score_model"], row[f"objective/score_{__name__}:length"]
    assert row["objective/scores"] == pytest.approx(2 * model + 0.5 * function, rel=1e-5)
    assert row["objective/shaped_scores"] == pytest.approx(row["reward"]) and row["reward"] < 4
    assert row["objective/shaped_scores"] <= row["objective/scores"] - 3.0 * (1 - row["val/ended"]) + 1e-4


@pytest.mark.slow
@in_grpo
@pytest.mark.parametrize("engine", [pytest.param("static", marks=pytest.mark.slow), "continuous"])
def test_other_engines_sample_what_is_learned_from(run_stage, method, tmp_path, engine):
    folder = run_stage(method, tmp_path / "run", rollout_engine=engine, learning_rate=0.0)
    assert engine in read_record(folder)["rollout_engine"]
    assert max(abs(row["objective/kl"]) for row in updates(folder)) < 1e-4


@pytest.mark.slow
@in_grpo
def test_continuous_batching_samples_from_a_whole_model_in_bf16(run_stage, method, tmp_path):
    whole = {"use_peft": None, "lora_r": None, "bf16": True, "rollout_engine": "continuous", "max_steps": 1}
    rows = updates(run_stage(method, tmp_path / "run", **whole))
    assert len(rows) == 1 and abs(rows[0]["objective/kl"]) < 1e-4  # policy and reference are still equal


# Resuming


@pytest.fixture(scope="module", params=LENGTHS)
def whole(request, run_stage, method, tmp_path_factory):
    changes = {**LENGTHS[request.param], "save_steps": 1, "save_total_limit": 9, "sample_steps": 2}
    return run_stage(method, tmp_path_factory.mktemp("whole") / "run", **changes), changes


@pytest.mark.parametrize(
    ("method", "whole"),
    mostly_slow(product(METHODS, LENGTHS), [("grpo", "within a batch")]),
    indirect=True,
)
@pytest.mark.parametrize("step", mostly_slow([1, 3, 5], [3]))
def test_resumed_is_uninterrupted_bit_for_bit(run_stage, whole, method, tmp_path, step):
    done, changes = whole
    folder = stopped_copy(done, tmp_path / "run", step)
    run_stage(method, folder, **changes, resume_from_checkpoint=True)
    assert_same_run(folder, done)
    assert (folder / "rollouts.jsonl").read_text() == (done / "rollouts.jsonl").read_text()


# Stops


@pytest.mark.slow
@in_grpo
def test_a_kl_above_max_kl_stops_and_publishes(run_stage, method, tmp_path):
    folder = run_stage(method, tmp_path / "run", max_steps=8, max_kl=1e-9, learning_rate=1e-2)
    record = read_record(folder)
    assert record["status"] == "done" and 1 < record["steps"] < 8
    assert "exceeds max_kl=1e-09" in record["stopped"] and "raise beta" in record["stopped"]
    assert (folder / "adapter_model.safetensors").is_file() and (folder / f"checkpoint-{record['steps']}").is_dir()


@pytest.mark.slow
@in_grpo
def test_responses_that_never_end_stop_a_run_that_leaves_them_out(run_stage, method, tmp_path, capsys):
    changes = {"mask_truncated_completions": True, "response_length": 1, "temperature": 0.01, "reward_model_path": None}
    folder = run_stage(method, tmp_path / "run", reward_functions=[f"{__file__}:length"], max_steps=12, **changes)
    record, warned = read_record(folder), "so the update trained nothing: raise response_length"
    assert record["status"] == "done" and record["steps"] == 10 and warned in record["stopped"]
    assert capsys.readouterr().err.count("step 1: no response ended") == 1


@pytest.mark.slow
@in_grpo
def test_the_best_checkpoint_by_the_held_out_reward_is_published(run_stage, method, tmp_path):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "test_split_size": 4, "save_total_limit": 9}
    folder = run_stage(method, tmp_path / "run", max_steps=4, learning_rate=1e-2, load_best_model_at_end=True, **steps)
    rewards = {row["step"]: row["eval_reward"] for row in read_metrics(folder) if "eval_reward" in row}
    record = read_record(folder)
    assert record["best_step"] == max(rewards, key=rewards.get)
    best = load_file(folder / f"checkpoint-{record['best_step']}" / "adapter_model.safetensors")
    published = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(values, best[name]) for name, values in published.items())


# Signals

SIGNALS = [*product(METHODS, LENGTHS, ("rollout", "loss"))]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "whole", "moment"), SIGNALS, indirect=["method", "whole"])
def test_a_signal_leaves_the_checkpoint_of_the_last_update(run_stage, whole, method, monkeypatch, tmp_path, moment):
    """While responses are sampled, the step is dropped; within an update it is left too, in one process."""
    done, changes = whole
    owner, name = {"rollout": (Rollouts, "sample"), "loss": (OnlineBatches, "predict")}[moment]
    own, step = getattr(owner, name), 2 if moment == "loss" else 1
    is_whole_batch = "num_iterations" in changes

    def interrupted(self, *given, **options):
        trainer_step = len([*tmp_path.glob("run/checkpoint-*")])
        if trainer_step == (4 if is_whole_batch and moment == "rollout" else step):
            os.kill(os.getpid(), signal.SIGUSR1)
        return own(self, *given, **options)

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as raised:
        patch.setattr(owner, name, interrupted)
        run_stage(method, tmp_path / "run", **changes)
    assert raised.value.code == 143
    run_stage(method, tmp_path / "run", **changes, resume_from_checkpoint=True)
    assert_same_run(tmp_path / "run", done)


# What is refused before anything is loaded


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"num_generations": 3}, "num_generations", "must divide a batch of 8 responses"),
        ({"num_generations": 1}, "num_generations", "2 or more"),
        ({"lora_dropout": 0.1}, "lora_dropout", "set 0"),
        ({"reward_model_path": None}, "reward_model_path", "or name reward_functions"),
        ({"max_completion_length": 8}, "max_completion_length", "response_length"),
        ({"use_vllm": True}, "use_vllm", "rollout_engine: vllm"),
        ({"use_transformers_continuous_batching": True}, "use_transformers_continuous_batching", "rollout_engine"),
        ({"top_p": 0.9}, "top_p", "temperature"),
        ({"generation_kwargs": {"top_k": 4}}, "generation_kwargs", "temperature"),
        ({"vllm_tensor_parallel_size": 2}, "vllm_tensor_parallel_size", "rollout_engine"),
        ({"log_completions": True}, "log_completions", "sample_steps"),
        ({"sync_ref_model": True}, "sync_ref_model", "reference stays"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights", "expected 1"),
        ({"disable_dropout": False}, "disable_dropout", "remove it"),
        ({"beta": -0.1}, "beta", "must"),
        ({"epsilon": -0.1}, "epsilon", "must"),
        ({"epsilon_high": -0.1}, "epsilon_high", "must"),
        ({"num_iterations": 0}, "num_iterations", "must"),
        ({"steps_per_generation": 0}, "steps_per_generation", "must"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size", "per_device_train_batch_size"),
        ({"metric_for_best_model": "eval_loss"}, "metric_for_best_model", "eval_reward, eval_kl"),
    ],
)
def test_what_is_refused(config_of, method, tmp_path, changes, key, remedy):
    with pytest.raises(ConfigError) as error:
        config_of(method, tmp_path, **changes)
    problems = {problem.key: str(problem) for problem in error.value.problems}
    assert problems.keys() == {key} and remedy in problems[key]


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha", "noise to the policy ratio"),
        ({"data_seed": 7}, "data_seed", "set seed"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy", "remove it"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last", "remove it"),
        ({"dataloader_in_order": False}, "dataloader_in_order", "not see the same data"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices", "all processes"),
        ({"use_cache": True}, "use_cache", "remove it"),
        ({"liger_kernel_config": {"rope": True}}, "liger_kernel_config", "Liger"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config", "whole batch of prompts"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config", "whole batch of prompts"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor", "remove it"),
        ({"reward_weights": [0.0]}, "reward_weights", "nothing would be learned"),
        ({"beta": 0.0, "max_kl": 5.0}, "max_kl", "no effect with beta: 0"),
        ({"temperature": 1e-9}, "temperature", "alike"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_would_have_no_effect_is_refused(config_of, method, tmp_path, changes, key, remedy):
    found = problems(config_of, tmp_path, method, **changes)
    assert found.keys() == {key} and remedy in found[key]


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"loss_type": "cispo"}, "epsilon_high", "must be above 1, such as 5.0"),
        ({"loss_type": "cispo", "epsilon_high": 0.28}, "epsilon_high", "must be above 1"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "epsilon": 0.1}, "epsilon", "no effect with loss_type: cispo"),
        ({"loss_type": "sapo", "epsilon_high": 0.3}, "epsilon_high", "no effect with loss_type: sapo"),
        ({"loss_type": "luspo"}, "importance_sampling_level", "set sequence"),
        (
            {"loss_type": "vespo", "importance_sampling_level": "sequence"},
            "importance_sampling_level",
            "loss_type: vespo",
        ),
        ({"importance_sampling_level": "word"}, "importance_sampling_level", "expected token or sequence"),
        ({"loss_type": "sapo", "delta": 2.0}, "delta", "no effect with loss_type: sapo"),
        ({"delta": 1.1}, "delta", "must be above 1.2"),
        ({"sapo_temperature_neg": 2.0}, "sapo_temperature_neg", "without loss_type: sapo"),
        ({"loss_type": "sapo", "sapo_temperature_pos": 0.0}, "sapo_temperature_pos", "must be above 0"),
        ({"vespo_k_pos": 1.0}, "vespo_k_pos", "without loss_type: vespo"),
        ({"top_entropy_quantile": 1.5}, "top_entropy_quantile", "must be from 0 to 1"),
        ({"entropy_target": 0.5}, "entropy_target", "without use_adaptive_entropy"),
        ({"beta": 0.0, "use_bias_correction_kl": False}, "use_bias_correction_kl", "no effect with beta: 0"),
        ({"entropy_coef": 0.1, "max_tokens_per_micro_batch": 64}, "max_tokens_per_micro_batch", "whole batches"),
    ],
)
def test_what_would_have_no_effect_on_a_loss_of_grpo_is_refused(config_of, tmp_path, changes, key, remedy):
    found = problems(config_of, tmp_path, "grpo", **changes)
    assert found.keys() == {key} and remedy in found[key]


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "delta": 2.0},
        {"loss_type": "sapo", "sapo_temperature_neg": 2.0},
        {"loss_type": "vespo", "vespo_lambda_neg": 1.0},
        {"use_adaptive_entropy": True, "entropy_target": 5.0},
        {"top_entropy_quantile": 0.2},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_what_has_an_effect_is_accepted(config_of, tmp_path, changes):
    assert config_of("grpo", tmp_path, **changes).extra.items() <= changes.items()


def test_fewer_prompts_than_a_batch_are_refused(run_stage, method, tmp_path):
    with pytest.raises(HfkitError, match="8 prompts < 16 of a batch"):
        run_stage(method, tmp_path / "run", per_device_train_batch_size=32)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_is_refused(config_of, method, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match="DDP"):
        config_of(method, tmp_path)
