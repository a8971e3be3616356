"""The checks of a stage's config: which keys a problem is about, which stage's checks run, what may not exist yet."""

import json
from dataclasses import dataclass, replace
from functools import partial

import pytest
import trl
from quick import mostly_slow

from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES, StageSpec, spec_of_config
from hfkit.config.stages import SFTConfig
from hfkit.config.validation import default_of, top_level_key
from hfkit.core.compat_trl import fuses_head
from hfkit.core.errors import ConfigError, Kind, Problem
from hfkit.stages.checks.architecture import MODEL_KEYS
from hfkit.stages.checks.stage import problems_of
from hfkit.stages.checks.trainer import trainer_problems
from hfkit.stages.read_configs import read_configs

FUNCTION = {"reward_functions": ["reward_functions:length"]}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "test_split_size": 2}
GREEDY = {"lr_scheduler_type": "greedy", "lr_scheduler_kwargs": {"min_lr": 0.0}}
CONTRADICTIONS = [
    ("sft", {"use_peft": False, "lora_r": 8, "lora_alpha": 8, "use_rslora": True, "lora_target_modules": ["q_proj"]}),
    ("sft", {"use_peft": False, "lora_r": None, "load_in_4bit": True}),
    ("sft", {"use_peft": True, "load_in_4bit": True, "load_in_8bit": True, "dtype": "auto"}),
    ("sft", {"push_to_hub": False, "hub_model_id": "me/it", "hub_private_repo": True, "hub_revision": "v2"}),
    ("sft", {"push_to_hub": True, "hub_strategy": "every_save", "save_strategy": "no"}),
    ("sft", {"eval_strategy": "no", "eval_steps": 5}),
    ("dpo", {"save_strategy": "epoch", "save_steps": 7, "logging_strategy": "epoch", "logging_steps": 7}),
    ("sft", {"eval_strategy": "steps", "test_split_size": None}),
    ("sft", {"eval_datasets": [{"path": "gpt2"}], "test_split_size": 2}),
    ("sft", {"model_revision": "v2", "max_length": 4096}),
    ("sft", {"bf16": True, "fp16": True}),
    ("sft", {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 3}),
    ("reward", {"use_peft": True, "lora_r": 8, "lora_alpha": 5, "lora_target_modules": ["q_proj"], "use_rslora": True}),
    ("pretrain", {"model_name_or_path": "gpt2", "use_peft": True, "block_size": 4096}),
    ("pretrain", {"model_config": None, "tokenizer_name_or_path": None}),
    ("ppo", {"num_mini_batches": 3, "gradient_accumulation_steps": 4}),
    ("ppo", {"whiten_rewards": True, "num_mini_batches": 1}),
    ("ppo", {"total_episodes": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": -1}),
    ("ppo", {"reward_functions": [], "reward_columns": ["answer"]}),
    ("ppo", {**FUNCTION, "reward_weights": [1.0]}),
    ("ppo", {"kl_target": 6.0, "kl_coef": 0.0}),
    ("ppo", {"kl_target": 6.0, "kl_horizon": 2}),
    ("ppo", {"ptx_coef": 0.1, "ptx_datasets": []}),
    ("ppo", {"ptx_coef": 0.0, "ptx_datasets": [{"path": "gpt2"}]}),
    ("ppo", {"load_best_model_at_end": True, "early_stopping_patience": 2, "eval_strategy": "no"}),
    ("ppo", {**EVALUATED, "load_best_model_at_end": True, "save_steps": 3}),
    ("ppo", {"reward_model_path": None, "reward_functions": [], "min_reward_accuracy": 0.5}),
    ("ppo", {"max_prompt_length": 200, "response_length": 100}),
]
"""Stages with settings that contradict each other, all of them given."""
FITTING = [
    ("sft", {"use_peft": True, "lora_r": 8, "use_rslora": True, "load_in_4bit": True, "dtype": "float32"}),
    ("sft", {"eval_strategy": "steps", "eval_steps": 3, "test_split_size": 8}),
    ("sft", {"eval_strategy": "steps", "logging_strategy": "no", "logging_steps": 7, "test_split_size": 8}),
    ("ppo", {**FUNCTION, "reward_weights": [1.0, 0.5], "reward_columns": ["answer"], "missing_eos_penalty": 1.0}),
    ("ppo", {"kl_target": 6.0, "kl_horizon": 8, "ptx_coef": 0.1, "ptx_datasets": [{"path": "gpt2"}]}),
    ("ppo", {**EVALUATED, "load_best_model_at_end": True, "early_stopping_patience": 2}),
]


@pytest.fixture
def problems_with(config_of, tmp_path, monkeypatch):
    """problems_with(stage, flags={}, **changes) -> the problems of the tiny config of a stage, and of flags over it."""

    def problems(stage: str, flags: dict | None = None, **changes) -> list[Problem]:
        with monkeypatch.context() as patch:
            patch.setitem(config_of.__globals__, "load_config", partial(load_config, **(flags or {})))
            try:
                config_of(stage, tmp_path / "out", **changes)
            except ConfigError as error:
                return error.problems
        return []

    return problems


def id_of(value: object) -> str:
    return value if isinstance(value, str) else "-".join(value)


@pytest.mark.parametrize(("stage", "changes"), mostly_slow(CONTRADICTIONS, CONTRADICTIONS[::3]), ids=id_of)
def test_a_fault_in_a_key_silences_what_contradicts_it(problems_with, stage, changes):
    """And a problem names each setting without which there would be none."""
    found = problems_with(stage, **changes)
    assert any(problem.keys for problem in found)
    for key in {*changes} & {top_level_key(key) for problem in found for key in problem.keys}:
        faulty = problems_with(stage, flags={key: object()}, **changes)  # the value below the flag stays
        assert [problem.key for problem in faulty if key in problem.keys] == []
        assert [problem.remedy[:8] for problem in faulty if problem.key == key] == ["expected"]
    for key in changes:
        left = {
            problem.key for problem in problems_with(stage, **{name: changes[name] for name in changes if name != key})
        }
        gone = [problem for problem in found if problem.key not in left and top_level_key(problem.key) != key]
        assert [str(problem) for problem in gone if key not in problem.keys] == []


@pytest.mark.parametrize(("stage", "changes"), mostly_slow(FITTING, FITTING[::2]), ids=id_of)
def test_a_fault_in_one_of_the_keys_that_fit_together_is_all_that_is_reported(problems_with, stage, changes):
    assert problems_with(stage, **changes) == []
    for key in changes:
        assert {problem.key for problem in problems_with(stage, **{**changes, key: object()})} == {key}


def test_a_misspelled_key_silences_what_its_lack_contradicts(problems_with):
    problems = problems_with("sft", use_peft=None, use_pef=True, lora_r=8)
    assert [(problem.key, problem.kind, problem.keys) for problem in problems] == [
        ("use_pef", Kind.UNKNOWN, ("use_peft",))
    ]


def test_problems_of_the_model_are_about_all_that_names_it(problems_with):
    problems = problems_with("ppo", max_prompt_length=200, response_length=100)
    assert [(problem.key, problem.keys) for problem in problems] == [
        ("response_length", ("max_prompt_length", *MODEL_KEYS))
    ]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"optim": "nonsense"}, ["optim"]),
        ({"lr_scheduler_type": "nonsense", "learning_rate": 1e-5, "adam_beta2": 0.9}, ["lr_scheduler_type"]),
        ({"optim": "nonsense", "lr_scheduler_type": "nonsense"}, ["lr_scheduler_type", "optim"]),
        ({"bf16": True, "fp16": True}, ["fp16"]),
        ({"report_to": "nonsense"}, ["report_to"]),
        ({"adam_beta1": 2.0}, ["adam_beta1"]),
        ({"optim": "galore_adamw"}, ["optim"]),
        ({"optim_args": "nonsense"}, ["optim_args"]),
        ({"optim_args": "betas=0.9"}, ["optim_args"]),  # adamw_torch reads none
        ({"optim_args": "momentum=0.9", "optim": "sgd"}, []),
        ({"optim": "apollo_adamw_layerwise"}, ["optim"]),
        ({"optim": "adalomo"}, ["optim"]),
        ({"train_sampling_strategy": "nope"}, ["train_sampling_strategy"]),
        ({"dataloader_multiprocessing_context": "spawn"}, ["dataloader_multiprocessing_context"]),
        ({"data_seed": -1, "pad_to_multiple_of": 0}, ["data_seed", "pad_to_multiple_of"]),
        ({"label_smoothing_factor": 0.1, "loss_type": "dft"}, ["label_smoothing_factor"]),
        ({"label_smoothing_factor": 0.1, "loss_type": "nll"}, ["label_smoothing_factor"] * fuses_head(trl.SFTConfig)),
        ({"optim": "sgd", "adam_beta1": 0.5, "adam_beta2": 0.5}, ["adam_beta1", "adam_beta2"]),
        ({"optim": "adafactor", "adam_epsilon": 1e-6}, ["adam_epsilon"]),
        ({"optim_target_modules": ["q_proj"]}, ["optim_target_modules"]),
        ({"accelerator_config": {"use_seedable_sampler": False}}, ["accelerator_config"]),
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}}, ["accelerator_config"]),
        ({"liger_kernel_config": {"rope": True}}, ["liger_kernel_config"]),
        ({"parallelism_config": {"tp_size": 2}}, ["parallelism_config"]),
        ({"fsdp_config": {"version": 2}}, ["fsdp_config"]),
        ({"eval_on_start": True, "test_split_size": None}, ["eval_on_start"]),
        ({"eval_on_start": True, "test_split_size": 4}, []),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, ["lr_scheduler_type"]),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}}, []),
        ({"lr_scheduler_kwargs": {"nonsense": 1}}, ["lr_scheduler_kwargs"]),
        ({"log_level": "nonsense"}, ["log_level"]),
        ({"learning_rate": 1e300}, ["learning_rate"]),
        ({"loss_type": "nope"}, ["loss_type"]),
        ({"loss_type": "nope", "optim": "nonsense"}, ["loss_type", "optim"]),
        ({"neftune_noise_alpha": -1.0}, ["neftune_noise_alpha"]),
        ({"dataloader_num_workers": -1}, ["dataloader_num_workers"]),
        ({"dataloader_prefetch_factor": 2}, ["dataloader_prefetch_factor"]),
        ({"ddp_backend": "nope"}, ["ddp_backend"]),
        ({"ddp_backend": "gloo"}, []),
    ],
)
def test_what_the_trainer_refuses_is_found_by_trying(problems_with, changes, keys):
    assert sorted(problem.key for problem in problems_with("sft", **changes)) == keys


def test_what_no_setting_causes_is_the_trainers(config_of, tmp_path, monkeypatch):
    def broken(arguments):
        raise RuntimeError("learning_rate is not to blame")

    config = config_of("sft", tmp_path, learning_rate=1e-5)
    monkeypatch.setattr("hfkit.stages.checks.trainer.trainer_arguments", broken)
    assert [str(problem) for problem in trainer_problems(config)] == [
        "trainer: None -> RuntimeError: learning_rate is not to blame"
    ]


@dataclass(kw_only=True)
class ToyConfig(SFTConfig):
    """A stage that somebody registers."""

    shots: int = 1


CHECKS = "hfkit.stages.checks:toy_problems"


def toy_problems(config: ToyConfig) -> list[Problem]:
    return [] if config.shots else [Problem("shots", config.shots, "must be above 0")]


@pytest.fixture
def toy(monkeypatch):
    """toy(makes) -> the spec of a registered stage."""
    monkeypatch.setattr("hfkit.stages.checks.toy_problems", toy_problems, raising=False)

    def make(makes: str) -> StageSpec:
        spec = replace(STAGES["sft"], name="toy", config_class=ToyConfig, makes=makes, checks=CHECKS)
        monkeypatch.setitem(STAGES, "toy", spec)
        return spec

    return make


def test_a_stage_that_somebody_registers_runs_its_own_checks(toy, reward_dir, data, tmp_path):
    values = {"datasets": [{"path": str(data / "turns.jsonl")}], "output_dir": str(tmp_path / "out"), "shots": 0}
    values |= {"model_name_or_path": str(reward_dir), "use_peft": True, "max_length": 64}
    spec = toy("assistant")
    with pytest.raises(ConfigError) as error:
        load_config(ToyConfig, values, problems_of)
    assert [problem.key for problem in error.value.problems] == ["model_name_or_path", "shots"]
    spec = toy("reward model")
    config = load_config(ToyConfig, values | {"shots": 1}, problems_of)
    assert spec_of_config(config) is spec


def test_a_model_to_continue_is_checked_also_with_a_tokenizer(problems_with):
    problems = problems_with("pretrain", model_config=None, model_name_or_path="/no/model")
    assert [(problem.key, problem.remedy) for problem in problems] == [
        ("model_name_or_path", "no such folder, and not a Hub id")
    ]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"datasets": [{"path": "/made/later.jsonl"}, {"path": "also-later.jsonl"}]}, []),
        ({"datasets": [{"card": "quickstart-prompts", "path": "/made/later"}]}, []),
        ({"datasets": [{"path": "gpt2"}], "chat_template": "/no.jinja"}, ["chat_template"]),
        ({"datasets": [{"card": "no.md"}]}, ["datasets[0].card"]),
        ({"datasets": [{"card": "alpaca", "path": "/no/folder"}]}, ["datasets[0].path"]),
        ({"datasets": [{"path": "gpt2"}], "model_name_or_path": "/no/model"}, ["model_name_or_path"]),
    ],
)
def test_a_plan_may_name_data_files_that_do_not_exist_yet_and_nothing_else(base_dir, tmp_path, changes, left):
    (tmp_path / "sft.yaml").write_text(json.dumps({"model_name_or_path": str(base_dir), "max_length": 64, **changes}))
    try:
        read_configs(str(tmp_path / "sft.yaml"), None, str(tmp_path / "out"), [])
        keys = []
    except ConfigError as error:
        keys = [problem.key for problem in error.problems]
    assert keys == left


@pytest.mark.parametrize(
    ("stage", "changes", "needed"),
    [
        ("sft", {"bnb_4bit_quant_type": "fp4"}, {"load_in_4bit": True}),
        ("reward", {"use_bnb_nested_quant": False}, {"load_in_4bit": True}),
        ("pretrain", {"sample_length": 3}, {"sample_prompts": ["Ann"]}),
        ("ppo", {"kl_horizon": 50}, {"kl_target": 6.0}),
        ("ppo", {"ptx_max_length": 50}, {"ptx_datasets": [{"path": "gpt2"}], "ptx_coef": 0.1}),
        ("ppo", {"use_peft": False, "merge_in_rollouts": False}, {"use_peft": True}),
        ("ppo", {"metric_for_best_model": "eval_kl"}, {**EVALUATED, "load_best_model_at_end": True}),
        ("ppo", {"metric_for_best_model": "eval_kl"}, {**EVALUATED, "early_stopping_patience": 1}),
        ("sft", {"metric_for_best_model": "eval_loss"}, {**EVALUATED, "load_best_model_at_end": True}),
        ("sft", {"eval_delay": 2}, EVALUATED),
        ("sft", {"greater_is_better": True}, {**EVALUATED, "lr_scheduler_type": "reduce_lr_on_plateau"}),
        ("grpo", {"metric_for_best_model": "eval_kl"}, {**EVALUATED, **GREEDY}),
    ],
    ids=str,
)
def test_a_key_that_does_nothing_alone_is_reported(problems_with, stage, changes, needed):
    [problem] = problems_with(stage, **changes)
    assert problem.key == [*changes][-1] and problem.remedy.startswith("has no effect without ")
    assert {*problem.keys} & {*needed}
    assert problems_with(stage, **changes | needed) == []


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sft", {"packing": True, "pad_to_multiple_of": 8}),
        ("sft", {"gradient_checkpointing": False, "gradient_checkpointing_kwargs": {"use_reentrant": True}}),
        ("sft", {"use_cache": True}),
        ("dpo", {"liger_kernel_config": {"rope": True}}),
        ("reward", {"label_smoothing_factor": 0.1}),
        ("reward", {"torch_compile_backend": "eager"}),
        ("reward", {"use_peft": True, "lora_dropout": 0.1}),
    ],
    ids=str,
)
def test_a_key_that_does_nothing_here_is_refused(problems_with, stage, changes):
    assert [problem.key for problem in problems_with(stage, **changes)] == [[*changes][-1]]


@pytest.mark.parametrize(("stage", "packing"), [("sft", True), ("pretrain", "documents")])
def test_a_token_budget_has_no_effect_on_joined_rows(problems_with, stage, packing):
    [problem] = problems_with(stage, packing=packing, max_tokens_per_micro_batch=64)
    assert problem.key == "max_tokens_per_micro_batch" and "packed" in problem.remedy


LENGTHS = [("sft", "max_length", 1024), ("reward", "max_length", 1024), ("pretrain", "block_size", 1024)]


@pytest.mark.parametrize(("stage", "key", "default"), [*LENGTHS, ("ppo", "max_prompt_length", 512)])
def test_a_length_that_is_not_set_follows_the_models_context(config_of, tmp_path, problems_with, stage, key, default):
    open_length = default_of(STAGES[stage].config_class.__dataclass_fields__[key])
    assert open_length == default
    config = config_of(stage, tmp_path / "out", **{key: open_length})
    assert getattr(config, key) == 256 - getattr(config, "response_length", 0)
    reported = "response_length" if stage == "ppo" else key
    assert [problem.key for problem in problems_with(stage, **{key: default})] == [reported]  # what is set stays


@pytest.mark.parametrize(("stage", "length"), [("sft", "max_length"), ("ppo", "max_prompt_length")])
def test_plan_and_data_check_read_lengths_that_follow_the_context(base_dir, sft_dir, stage, length):
    start = {"sft": base_dir, "ppo": sft_dir}[stage]
    flags = ["--model_name_or_path", str(start), "--datasets", "rows.jsonl"]
    flags += ["--reward_functions", "reward_functions:length"] if stage == "ppo" else []
    config = read_configs(None, stage, None, flags)[stage]
    assert getattr(config, length) == 256 - getattr(config, "response_length", 0)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("output_dir", "${HFKIT_OUT}/x", "environment variables are not read"),
        ("model_name_or_path", "$HFKIT_MODELS/base", "environment variables are not read"),
        ("datasets", "$HFKIT_DATA/rows.jsonl", "environment variables are not read"),
        ("datasets", r"C:\Users\me\rows.jsonl", "a path of Windows"),
        ("datasets", r"data\rows.jsonl", "a path of Windows"),
        ("datasets", "https://example.com/rows.jsonl", "download the file"),
        ("datasets", "s3://bucket/rows.jsonl", "download the file"),
        ("datasets", "file:///tmp/rows.jsonl", "remove file://"),
    ],
)
def test_paths_that_are_none_on_this_machine_have_a_remedy(base_dir, data, tmp_path, key, value, remedy):
    values = {"model_name_or_path": str(base_dir), "output_dir": str(tmp_path), "datasets": str(data / "turns.jsonl")}
    with pytest.raises(ConfigError, match=remedy):
        load_config(SFTConfig, {**values, key: value}, problems_of)
