"""Configs of other tools become YAMLs of hfkit that train as the other tool does, and nothing in them is lost."""

import json
import re
from pathlib import Path

import pytest
import yaml
from quick import mostly_slow

from hfkit.cli import main
from hfkit.commands.init.acceptance import setting_problems
from hfkit.commands.init.foreign import ForeignConfig, read_foreign
from hfkit.commands.init.foreign_data import SOURCES
from hfkit.commands.init.translate import stage_keys, translate_config
from hfkit.config.other_tools import table
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES

LLAMAFACTORY = """
model_name_or_path: my-model
trust_remote_code: true
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: q_proj,v_proj
quantization_bit: 4
pref_loss: ipo
pref_beta: 0.2
pref_ftx: 0.5
dataset: mine, hub
dataset_dir: {folder}
template: qwen3
cutoff_len: 4096
max_samples: 1000
interleave_probs: 0.7,0.3
mix_strategy: interleave_under
plot_loss: true
use_galore: true
hub_token: hf_{token}
output_dir: saves/dpo
learning_rate: 5.0e-6
warmup_ratio: 0.1
flash_attn: fa2
val_size: 0.1
resume_from_checkpoint:
"""
INFO = {
    "mine": {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    },
    "hub": {"hf_hub_url": "someone/pairs", "subset": "en", "split": "train[:10]"},
}
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


@pytest.fixture
def settings(tmp_path):
    """settings(text, goal) -> what became of a config."""

    def of(text: str, goal: str | None = None):
        file = tmp_path / "theirs.yaml"
        file.write_text(text)
        return translate_config(read_foreign(str(file), goal))

    return of


def values(found) -> dict:
    return {key: one.value for key, one in found.settings.items()}


def test_llamafactory(settings, tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    found = settings(LLAMAFACTORY.format(folder=tmp_path, token="a" * 34))
    pairs = {"path": str(tmp_path / "pairs.json"), "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}
    hub = {"path": "someone/pairs", "name": "en", "split": "train[:10]"}
    assert values(found) == {
        **{"model_name_or_path": "my-model", "use_peft": True, "load_in_4bit": True, "lora_r": 16},
        **{"lora_target_modules": ["q_proj", "v_proj"], "loss_type": ["ipo", "sft"], "loss_weights": [1.0, 0.5]},
        **{"beta": 0.2, "max_length": 4096, "learning_rate": 5e-6, "warmup_steps": 0.1, "test_split_size": 0.1},
        **{"attn_implementation": "flash_attention_2", "output_dir": "saves/dpo"},
        **{"num_train_epochs": 3.0, "per_device_train_batch_size": 8},  # its defaults
        "datasets": [{**pairs, "rows": 1000, "weight": 0.7}, {**hub, "rows": 1000, "weight": 0.3}],
    }
    assert [problem.key for problem in found.undecided] == ["use_galore"]
    assert {*found.needless} == {"trust_remote_code", "do_train", "template", "plot_loss", "hub_token", "pref_loss"}


def test_axolotl(settings):
    found = settings(AXOLOTL)
    assert values(found) == {
        **{"model_name_or_path": "my-model", "use_peft": True, "load_in_4bit": True, "load_in_8bit": False},
        **{"lora_r": 32, "lora_target_modules": "all-linear", "test_split_size": 0.05, "max_length": 2048},
        **{"packing": True, "per_device_train_batch_size": 2, "num_train_epochs": 2, "optim": "paged_adamw_32bit"},
        **{"lr_scheduler_type": "cosine", "learning_rate": 0.0002, "warmup_steps": 10, "pad_token": "<|pad|>"},
        **{"eval_strategy": "steps", "eval_steps": 0.125, "save_strategy": "epoch", "lora_dropout": 0.0},
        "datasets": [
            {"path": "someone/alpaca"},
            {"path": "mine.jsonl", "columns": {"messages": "dialog"}},
            {"path": "own.jsonl", "columns": {"prompt": "{q}\n{context}", "response": "a"}},
        ],
    }
    assert [problem.key for problem in found.undecided] == ["datasets[2].type.format"]


def test_the_block_trl_of_axolotl_has_keys_of_grpo(settings):
    block = "beta: 0.01\n  num_generations: 4\n  max_completion_length: 64\n  use_vllm: true\n  log_completions:"
    found = settings(f"base_model: m\nrl: grpo\ntrl:\n  {block}\n  vllm_guided_decoding_regex: a+\n")
    wanted = {"beta": 0.01, "num_generations": 4, "max_completion_length": 64, "rollout_engine": "vllm"}
    names = {"max_completion_length": "response_length"}
    got = values(found)
    assert {key: got.get(key, got.get(names.get(key))) for key in wanted} == wanted
    undecided = {one.key for one in found.undecided}
    assert "vllm_guided_decoding_regex" in undecided and not {"trl", "log_completions"} & undecided


def test_trl(settings):
    found = settings(TRL, "grpo")
    entry = {"path": "someone/prompts", "name": "en"}
    assert values(found) == {
        **{"model_name_or_path": "my-model", "datasets": [entry], "eval_datasets": [{**entry, "split": "test"}]},
        **{"eval_strategy": "steps", "reward_functions": ["my_rewards.length"], "response_length": 100},
        **{"num_generations": 4, "num_train_epochs": 3.0, "learning_rate": 1e-6, "temperature": 1.0, "beta": 0.0},
    }
    assert not found.undecided and {*found.needless} == {"use_vllm"}


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
def test_the_stage_and_the_defaults_of_the_tool(settings, tmp_path, text, stage, wanted):
    found = values(settings(text))
    assert {key: found.get(key) for key in wanted} == wanted
    assert read_foreign(str(tmp_path / "theirs.yaml"), None).stage == stage


RECIPE = """
model_name_or_path: my-model
trust_remote_code: true
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: someone/rows
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4
output_dir: saves/mine
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""
"""The keys of LLaMA-Factory's recipes for LoRA."""


@pytest.mark.parametrize(
    ("text", "wanted", "undecided"),
    [
        ("stage: sft", {"max_length": 2048, "lora_dropout": 0.0}, []),
        ("stage: pt", {"block_size": 2048, "lora_dropout": 0.0}, []),
        ("stage: rm", {"max_length": 2048, "lora_dropout": 0.0}, []),
        ("stage: dpo\npref_beta: 0.1\npref_loss: sigmoid", {"beta": 0.1, "loss_type": ["sigmoid"]}, []),
        (
            "stage: ppo\nreward_model: rm\nmax_new_tokens: 512\ntop_k: 0\ntop_p: 0.9",
            {"reward_model_path": "rm", "response_length": 512, "kl_coef": 0.2, "kl_target": 6.0},
            ["top_p"],
        ),
        (
            "stage: sft\nquantization_bit: 4\nquantization_method: bnb\ndouble_quantization: false",
            {"load_in_4bit": True, "use_bnb_nested_quant": False},
            [],
        ),
    ],
)
def test_recipes_of_llamafactory(settings, tmp_path, text, wanted, undecided):
    found = settings(f"{RECIPE}{text}\n")
    config = load_config(STAGES[read_foreign(str(tmp_path / "theirs.yaml"), None).stage].config_class, values(found))
    common = {"use_peft": True, "lora_r": 8, "learning_rate": 1e-4, "num_train_epochs": 3.0, "warmup_steps": 0.1}
    assert {key: getattr(config, key) for key in common | wanted} == common | wanted
    assert [(one.path, one.rows) for one in config.datasets] == [("someone/rows", 1000)]
    assert [one.key for one in found.undecided] == undecided


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
        ("torchrun src/train.py --do_train True --report_to a b", "sft", {"report_to": ["a", "b"]}),
    ],
)
def test_a_command_saved_as_text(settings, tmp_path, text, stage, wanted):
    found = values(settings(text))
    assert {key: found.get(key) for key in wanted} == wanted
    assert read_foreign(str(tmp_path / "theirs.yaml"), None).stage == stage


@pytest.mark.parametrize("tool", ["LLaMA-Factory", "axolotl", "TRL"])
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
        ("base_model: x\nval_set_size: 0.0\nevals_per_epoch: 2", {"evals_per_epoch"}, {"val_set_size"}),
        ("base_model: x\nwarmup_steps: 5\nwarmup_ratio: 0.1", set(), {"warmup_ratio"}),
        ("base_model: x\nchat_template: phi_3\nliger_rope: true", {"chat_template"}, set()),
        (
            "base_model: x\nadapter: lora\nlora_target_linear: true\nlora_target_modules: [a]",
            set(),
            {"lora_target_modules"},
        ),
    ],
)
def test_a_value_that_the_stage_would_refuse_is_left_to_decide(settings, text, undecided, needless):
    found = settings(text)
    assert {one.key for one in found.undecided} - {"model_name_or_path", "datasets"} == undecided
    assert {*found.needless} == needless
    assert not setting_problems(yaml.safe_load(text).get("stage", "sft"), found.settings)


def test_defaults_follow_what_the_config_sets(settings):
    adapter = values(settings("base_model: x\nadapter: lora"))
    assert adapter["lora_dropout"] == 0.0 and "lora_dropout" not in values(settings("base_model: x"))
    assert "use_peft" not in values(settings("stage: sft\nfinetuning_type: freeze"))
    assert values(settings("dataset_name: d\nuse_peft: true\nlora_r: 64", "sft"))["lora_alpha"] == 32
    of_peft = settings("dataset_name: d\nuse_peft: true", "sft").undecided
    assert [one.key for one in of_peft] == ["lora_target_modules", "model_name_or_path"]
    buffered = values(settings("stage: ppo\ngradient_accumulation_steps: 2\nppo_buffer_size: 4"))
    assert (buffered["gradient_accumulation_steps"], buffered["num_mini_batches"]) == (8, 4)
    tokens = settings("base_model: x\nspecial_tokens: {pad_token: a, eos_token: b}\nchat_template: tokenizer_default")
    assert values(tokens)["pad_token"] == "a" and tokens.undecided[0].value == {"eos_token": "b"}
    assert {*tokens.needless} == {"chat_template"}
    packed = values(settings("base_model: x\npretraining_dataset: d\nsample_packing: true"))
    assert packed["packing"] == "documents"


@pytest.mark.parametrize(
    ("stage", "described", "entry", "undecided"),
    [
        ("pt", {"columns": {"prompt": "content"}}, {"columns": {"text": "content"}}, []),
        ("sft", {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}, {}, []),
        (
            "sft",
            {"columns": {"prompt": "text", "response": "output"}},
            {"columns": {"prompt": "text", "response": "output"}},
            [],
        ),
        ("sft", {"columns": {"messages": "conversations", "images": "images"}}, {}, ["columns.images"]),
        ("sft", {"columns": ["a"], "tags": {"role_tag": 3}}, {}, ["columns", "tags.role_tag"]),
        ("sft", {"formatting": "sharegpt", "num_samples": 5, "folder": "de"}, {"rows": 5}, ["folder"]),
        ("rm", {"ranking": True, "formatting": "sharegpt", "tags": {"role_tag": "who"}}, {}, ["tags.role_tag"]),
    ],
)
def test_datasets_of_llamafactory(settings, tmp_path, stage, described, entry, undecided):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "a.json", **described}}))
    found = settings(f"stage: {stage}\nmodel_name_or_path: m\ndataset: mine\neval_dataset: mine\nmax_samples: 9")
    entry = {"path": str(tmp_path / "data" / "a.json"), "rows": 9, **entry}
    assert values(found)["datasets"] == values(found)["eval_datasets"] == [entry]
    assert [one.key for one in found.undecided] == [f"dataset_info.json: mine.{one}" for one in undecided * 2]


@pytest.mark.parametrize("page", ["llamafactory", "axolotl"])
def test_the_pages_show_what_the_command_writes(page, settings):
    text = (Path(__file__).parents[2] / "docs" / "coming_from" / f"{page}.md").read_text(encoding="utf-8")
    theirs, ours = (block.partition("\n")[2].partition("```")[0] for block in text.split("```yaml")[1:3])
    ours = yaml.safe_load(ours)
    found = values(settings(theirs))
    assert {key: found.get(key) for key in ours if key != "datasets"} == {
        key: value for key, value in ours.items() if key != "datasets"
    }


def test_the_stage_runs(base_dir, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": str(data / "turns.jsonl")}}))
    theirs = f"model_name_or_path: {base_dir}\nstage: sft\nfinetuning_type: lora\ndataset: mine\noutput_dir: theirs\n"
    (tmp_path / "lf.yaml").write_text(theirs + "cutoff_len: 64\nuse_badam: true\nwandb_api_key: 0123456789abcdef\n")
    assert main(["init", "--from", "lf.yaml"]) == 0
    printed = capsys.readouterr().out
    assert (
        "to decide: use_badam: True -> hfkit has no such key\n" in printed and "next: hfkit sft sft.yaml\n" in printed
    )
    written = (tmp_path / "sft.yaml").read_text()
    assert "# - use_badam: True" in written and "0123456789" not in written + printed
    config = load_config(STAGES["sft"].config_class, str(tmp_path / "sft.yaml"))
    assert (config.lora_r, config.max_length, config.num_train_epochs, config.output_dir) == (8, 64, 3.0, "theirs")
    assert main(["sft", "sft.yaml", "--max_steps", "1"]) == 0
    assert (tmp_path / "theirs" / "adapter_model.safetensors").is_file()
    assert main(["init", "--from", "lf.yaml"]) == 2 and (tmp_path / "sft.yaml").read_text() == written


@pytest.mark.parametrize(
    ("text", "flags", "reported"),
    [
        ("stage: kto\nlora_rank: 8", [], "stage: 'kto' -> hfkit has no KTO"),
        ("stage: dpo\npref_loss: orpo", [], "pref_loss: 'orpo' -> hfkit has no ORPO"),
        ("stage: dpo\npref_loss: simpo", [], "pref_loss: 'simpo' -> hfkit has no SimPO"),
        ("stage: dpo\npref_loss: kto_pair", [], "pref_loss: 'kto_pair' -> hfkit has no KTO"),
        ("base_model: m\nrl: simpo", [], "rl: 'simpo' -> hfkit translates these: dpo, grpo"),
        ("learning_rate: 1", [], "--from: 'theirs.yaml' -> for none of these tools"),
        ("- a\n- b", [], "expected a mapping"),
        ("", [], "expected a mapping"),
        ("lora_rank: 8\nlora_rank: 9", [], "given twice"),
        ("a: !!python/object/apply:os.getcwd []", [], "not valid YAML"),
        ("dataset_name: d", [], "--goal: missing -> a config of TRL does not show its stage"),
        ("dataset_name: d", ["--goal", "tokenizer"], "--goal: 'tokenizer' -> "),
        ("lora_rank: 8", ["--goal", "dpo"], "--goal: 'dpo' -> the file is for sft"),
        ("trl kto --dataset_name d", [], "hfkit has no KTO"),
        ("trl sft --config c.yaml", [], "--config: 'c.yaml' -> translate this file instead"),
        ("llamafactory-cli train c.yaml", [], "--from: 'c.yaml' -> the command names this file"),
        ("trl sft --dataset_name $DATA", [], "--dataset_name: '$DATA' -> variables of the shell are not read"),
        ("lora_rank: 8", ["--model", "m", "--seed", "1"], "--seed: 'with --from' -> "),
    ],
)
def test_what_cannot_be_translated_is_refused_and_nothing_is_written(
    text, flags, reported, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(text)
    assert main(["init", "--from", "theirs.yaml", *flags]) == 2
    assert reported in capsys.readouterr().err and [*tmp_path.iterdir()] == [tmp_path / "theirs.yaml"]


def test_no_text_of_the_file_leaves_its_comment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("theirs.yaml").write_text(json.dumps({"lora_rank": 8, "a\nseed: 1": 2, "template": "x\nseed: 2"}))
    assert main(["init", "--from", "theirs.yaml"]) == 0
    assert "seed" not in yaml.safe_load(Path("sft.yaml").read_text())
