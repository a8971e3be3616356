"""Configs of other tools become YAMLs of hfkit that train as the other tool does, and nothing in them is lost."""

import re
from pathlib import Path

import pytest
import yaml
from foreign_fixtures import values
from quick import mostly_slow

from hfkit.commands.init.foreign import ForeignConfig, read_foreign
from hfkit.commands.init.foreign_data import SOURCES
from hfkit.commands.init.setting_checks import setting_problems
from hfkit.commands.init.translate import stage_keys, translate_config
from hfkit.config.other_tools import table
from hfkit.config.registry import STAGES

AXOLOTL = """
base_model: my-model
model_type: LlamaForCausalLM
load_in_8bit: false
strict: false
adapter: qlora
lora_r: 32
lora_target_linear: true
datasets:
  - {path: someone/alpaca, type: alpaca}
  - {path: json, data_files: mine.jsonl, ds_type: json, type: chat_template, field_messages: dialog}
  - {path: own.jsonl, type: {field_instruction: q, field_input: context, field_output: a, format: "[{instruction}]"}}
val_set_size: 0.05
sequence_len: 2048
sample_packing: true
wandb_project:
micro_batch_size: 2
num_epochs: 2
optimizer: paged_adamw_32bit
lr_scheduler: cosine
learning_rate: 0.0002
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
special_tokens: {pad_token: <|pad|>}
"""
TRL = """
model_name_or_path: my-model
dataset_name: someone/prompts
dataset_config: en
eval_strategy: steps
reward_funcs: [my_rewards.length]
max_completion_length: 100
num_generations: 4
use_vllm: false
"""


def test_axolotl(translated):
    found = translated(AXOLOTL)
    assert values(found) == {
        **{"model_name_or_path": "my-model", "use_peft": True, "load_in_4bit": True, "load_in_8bit": False},
        **{"lora_r": 32, "lora_target_modules": "all-linear", "test_split_size": 0.05, "max_length": 2048},
        **{"packing": True, "per_device_train_batch_size": 2, "num_train_epochs": 2, "optim": "paged_adamw_32bit"},
        **{"lr_scheduler_type": "cosine", "learning_rate": 0.0002, "warmup_steps": 10, "pad_token": "<|pad|>"},
        **{"eval_strategy": "steps", "eval_steps": 0.125, "save_strategy": "epoch", "lora_dropout": 0.0},
        "datasets": [
            {"path": "someone/alpaca", "columns": {"prompt": "{instruction}\n{input}", "response": "output"}},
            {"path": "mine.jsonl", "columns": {"messages": "dialog"}},
            {"path": "own.jsonl", "columns": {"prompt": "{q}\n{context}", "response": "a"}},
        ],
    }
    assert [problem.key for problem in found.undecided] == ["datasets"]


def test_the_block_trl_of_axolotl_has_keys_of_grpo(translated):
    block = "beta: 0.01\n  num_generations: 4\n  max_completion_length: 64\n  use_vllm: true\n  log_completions:"
    found = translated(f"base_model: m\nrl: grpo\ntrl:\n  {block}\n  vllm_guided_decoding_regex: a+\n")
    wanted = {"beta": 0.01, "num_generations": 4, "max_completion_length": 64, "rollout_engine": "vllm"}
    names = {"max_completion_length": "response_length"}
    got = values(found)
    assert {key: got.get(key, got.get(names.get(key))) for key in wanted} == wanted
    undecided = {one.key for one in found.undecided}
    assert "vllm_guided_decoding_regex" in undecided and not {"trl", "log_completions"} & undecided


def test_trl(translated):
    found = translated(TRL, "grpo")
    entry = {"path": "someone/prompts", "name": "en"}
    assert values(found) == {
        **{"model_name_or_path": "my-model", "datasets": [entry], "eval_datasets": [{**entry, "split": "test"}]},
        **{"eval_strategy": "steps", "reward_functions": ["my_rewards:length"], "response_length": 100},
        **{"num_generations": 4, "num_train_epochs": 3.0, "learning_rate": 1e-6, "temperature": 1.0, "beta": 0.0},
    }
    assert [one.key for one in found.undecided] == ["chat_template"] and {*found.needless} == {"use_vllm"}


@pytest.mark.parametrize(
    ("text", "stage", "wanted"),
    [
        ("stage: pt\ndataset_dir: data", "pretrain", {"block_size": 2048}),
        ("stage: rm\nlora_rank: 4\nfinetuning_type: full", "reward", {"use_peft": False, "lora_r": None}),
        ("stage: sft\nfinetuning_type: full", "sft", {"use_peft": False, "learning_rate": 5e-5, "lora_r": None}),
        (
            "stage: ppo\nlora_rank: 4\nreward_model: rm\nadapter_name_or_path: sft\nmodel_name_or_path: base",
            "ppo",
            {"reward_model_path": "rm", "model_name_or_path": "sft", "response_length": 1024, "kl_target": 6.0},
        ),
        ("base_model: m\nrl: dpo\nrl_beta: 0.3", "dpo", {"beta": 0.3, "warmup_steps": 0.03}),
        ("base_model: m\nreward_model: true", "reward", {"model_name_or_path": "m", "max_length": 512}),
        ("base_model: m\npretraining_dataset: wiki", "pretrain", {"datasets": [{"path": "wiki"}]}),
    ],
)
def test_the_stage_and_the_defaults_of_the_tool(translated, tmp_path, text, stage, wanted):
    found = values(translated(text))
    assert {key: found.get(key) for key in wanted} == wanted
    assert read_foreign(str(tmp_path / "theirs.yaml"), None).stage == stage


@pytest.mark.parametrize(
    ("text", "stage", "wanted"),
    [
        (
            "trl dpo --model_name_or_path m --dataset_name d --use-peft --learning_rate=2e-6",
            "dpo",
            {"use_peft": True, "learning_rate": 2e-6, "datasets": [{"path": "d"}]},
        ),
        (
            "#!/bin/sh\nset -e\nX=0 llamafactory-cli train \\\n  --stage rm \\\n  --lora_target q,v # all",
            "reward",
            {"lora_target_modules": ["q", "v"], "lora_r": 8},
        ),
        ("torchrun src/train.py --do_train True --report_to wandb trackio", "sft", {"report_to": ["wandb", "trackio"]}),
    ],
)
def test_a_command_saved_as_text(translated, tmp_path, text, stage, wanted):
    found = values(translated(text))
    assert {key: found.get(key) for key in wanted} == wanted
    assert read_foreign(str(tmp_path / "theirs.yaml"), None).stage == stage


@pytest.mark.parametrize("tool", mostly_slow(["LLaMA-Factory", "axolotl", "TRL"], ["TRL"]))
@pytest.mark.parametrize("value", mostly_slow([True, 3, "x", ["x"], {"x": 1}], ["x"]))
def test_every_key_is_translated_or_reported(tool, value):
    stages = [stage for stage, spec in STAGES.items() if spec.loop]
    for index, key in enumerate(sorted({*table()["keys"]} - {"stage", "rl"})):
        stage = stages[index % len(stages)]
        config = ForeignConfig(tool, stage, {key: value}, "theirs.yaml")
        found = translate_config(config)
        reported = {re.split(r"[.\[]", one.key)[0] for one in found.undecided} | found.needless.keys()
        written = {one.why for one in found.settings.values()} | found.settings.keys()
        assert key in reported | written | SOURCES[tool](config).read | stage_keys(config), (stage, key)


@pytest.mark.parametrize(
    ("text", "undecided", "needless"),
    [
        ("stage: sft\nfinetuning_type: freeze", {"finetuning_type"}, set()),
        ("stage: dpo\nlora_dropout: 0.1\nmix_strategy: concat", set(), {"lora_dropout", "mix_strategy"}),
        ("stage: ppo\nlora_dropout: 0.1", {"lora_dropout", "top_p"}, set()),
        ("stage: sft\nfinetuning_type: full\nlora_rank: 4", {"lora_rank"}, set()),
        ("stage: sft\nfinetuning_type: full\nquantization_bit: 4", {"quantization_bit"}, set()),
        ("stage: sft\nmax_length: 3\ncutoff_len: 4", {"cutoff_len"}, set()),
        ("stage: dpo\noptim: adafactor\nadam_beta2: 0.95\nreport_to: comet_ml", {"adam_beta2"}, set()),
        ("stage: ppo\nnum_mini_batches: 2\ntop_p: 0.7", {"num_mini_batches", "top_p"}, set()),
        ("base_model: x\noptimizer: muon\nlr_scheduler: rex", {"optimizer", "lr_scheduler"}, set()),
        (
            "base_model: x\noptimizer: adamw_bnb_8bit\nhub_strategy: end\nsave_steps: 9\nsaves_per_epoch: 1",
            {"save_steps"},
            set(),
        ),
        ("base_model: x\nval_set_size: 0.0\nevals_per_epoch: 2", set(), {"val_set_size", "evals_per_epoch"}),
        ("base_model: x\nwarmup_steps: 5\nwarmup_ratio: 0.1", set(), {"warmup_ratio"}),
        ("base_model: x\nchat_template: phi_3\nliger_rope: true", {"chat_template"}, set()),
        (
            "base_model: x\nadapter: lora\nlora_target_linear: true\nlora_target_modules: [a]",
            set(),
            {"lora_target_modules"},
        ),
    ],
)
def test_a_value_that_the_stage_would_refuse_is_left_to_decide(translated, text, undecided, needless):
    found = translated(text)
    assert {one.key for one in found.undecided} - {"model_name_or_path", "datasets"} == undecided
    assert {*found.needless} == needless
    assert not setting_problems(yaml.safe_load(text).get("stage", "sft"), found.settings)


@pytest.mark.parametrize(
    ("text", "goal", "wanted", "undecided"),
    [
        (
            "base_model: x\ncosine_min_lr_ratio: 0.1\nlr_scheduler: cosine",
            None,
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
            {},
        ),
        (
            "base_model: x\ncosine_min_lr_ratio: 0.1\ncosine_constant_lr_ratio: 0.8",
            None,
            {"lr_scheduler_type": "cosine"},
            {"cosine_min_lr_ratio", "cosine_constant_lr_ratio"},
        ),
        ("base_model: x\nhub_model_id: me/x", None, {"push_to_hub": True, "hub_model_id": "me/x"}, {}),
        ("base_model: x\nflex_attention: true", None, {"attn_implementation": "flex_attention"}, {}),
        (
            "base_model: x\nrl: grpo\nmicro_batch_size: 8\n"
            "trl: {use_vllm: true, vllm_server_host: there, vllm_server_timeout: 9}",
            None,
            {"vllm_mode": "server", "vllm_server_base_url": "http://there:8000", "vllm_server_timeout": 9},
            {},
        ),
        ("stage: sft\nuse_dft_loss: true\npure_bf16: true", None, {"loss_type": "dft", "dtype": "bfloat16"}, {}),
        ("stage: sft\nmoe_aux_loss_coef: 0.02", None, {"router_aux_loss_coef": 0.02}, {}),
        ("stage: rm\nmoe_aux_loss_coef: 0.02", None, {}, {"moe_aux_loss_coef"}),
        (
            "loss_type: [ipo, hinge]\nrpo_alpha: 0.5",
            "dpo",
            {"loss_type": ["ipo", "hinge", "sft"], "loss_weights": [1.0, 1.0, 0.5]},
            {},
        ),
        ("chat_template_path: a.jinja\neos_token: <x>", "sft", {"chat_template": "a.jinja"}, {"eos_token"}),
        ("cache_implementation: static", "grpo", {"rollout_engine": "static"}, {}),
    ],
)
def test_values_of_all_tools(translated, text, goal, wanted, undecided):
    found = translated(f"{text}\nmodel_name_or_path: x\ndataset_name: x" if goal else text, goal)
    assert {key: values(found).get(key) for key in wanted} == wanted
    assert {one.key for one in found.undecided} - {"model_name_or_path", "datasets", "chat_template"} == {*undecided}


def test_the_column_of_text_of_trl(translated):
    found = translated("model_name_or_path: x\ndataset_name: d\ndataset_text_field: content", "sft")
    assert values(found)["datasets"] == [{"path": "d", "columns": {"text": "content"}}]


def test_defaults_follow_what_the_config_sets(translated):
    adapter = values(translated("base_model: x\nadapter: lora"))
    assert adapter["lora_dropout"] == 0.0 and "lora_dropout" not in values(translated("base_model: x"))
    assert "use_peft" not in values(translated("stage: sft\nfinetuning_type: freeze"))
    assert values(translated("dataset_name: d\nuse_peft: true\nlora_r: 64", "sft"))["lora_alpha"] == 32
    of_peft = translated("dataset_name: d\nuse_peft: true", "sft").undecided
    assert [one.key for one in of_peft] == ["lora_target_modules", "chat_template", "model_name_or_path"]
    buffered = values(translated("stage: ppo\ngradient_accumulation_steps: 2\nppo_buffer_size: 4"))
    assert (buffered["gradient_accumulation_steps"], buffered["num_mini_batches"]) == (8, 4)
    tokens = translated("base_model: x\nspecial_tokens: {pad_token: a, eos_token: b}\nchat_template: tokenizer_default")
    assert values(tokens)["pad_token"] == "a" and tokens.undecided[0].value == {"eos_token": "b"}
    assert {*tokens.needless} == {"chat_template"}
    packed = values(translated("base_model: x\npretraining_dataset: d\nsample_packing: true"))
    assert packed["packing"] == "documents"


@pytest.mark.parametrize("page", ["llamafactory", "axolotl"])
def test_the_pages_show_what_the_command_writes(page, translated):
    text = (Path(__file__).parents[2] / "docs" / "coming_from" / f"{page}.md").read_text(encoding="utf-8")
    theirs, ours = (block.partition("\n")[2].partition("```")[0] for block in text.split("```yaml")[1:3])
    ours = yaml.safe_load(ours)
    found = values(translated(theirs))
    assert {key: found.get(key) for key in ours if key != "datasets"} == {
        key: value for key, value in ours.items() if key != "datasets"
    }
