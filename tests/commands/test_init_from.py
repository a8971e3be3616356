"""Configs of other tools become YAMLs of hfkit that train as the other tool does, and nothing in them is lost."""

import json
import re
from pathlib import Path

import pytest
import yaml
from quick import mostly_slow

from hfkit.cli import main
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
    assert {*found.needless} == {"trust_remote_code", "do_train", "template", "plot_loss", "hub_token"}


def test_axolotl(settings):
    found = settings(AXOLOTL)
    assert values(found) == {
        **{"model_name_or_path": "my-model", "use_peft": True, "load_in_4bit": True, "load_in_8bit": False},
        **{"lora_r": 32, "lora_target_modules": "all-linear", "test_split_size": 0.05, "max_length": 2048},
        **{"packing": True, "per_device_train_batch_size": 2, "num_train_epochs": 2, "optim": "paged_adamw_32bit"},
        **{"lr_scheduler_type": "cosine", "learning_rate": 0.0002, "warmup_steps": 10, "pad_token": "<|pad|>"},
        **{"eval_strategy": "steps", "eval_steps": 0.125, "save_strategy": "epoch"},
        "datasets": [
            {"path": "someone/alpaca"},
            {"path": "mine.jsonl", "columns": {"messages": "dialog"}},
            {"path": "own.jsonl", "columns": {"prompt": "{q}\n{context}", "response": "a"}},
        ],
    }
    assert [problem.key for problem in found.undecided] == ["datasets[2].type.format"]


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
        ("stage: rm\nlora_rank: 4\nfinetuning_type: full", "reward", {"use_peft": False, "lora_r": 4}),
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


@pytest.mark.parametrize("tool", ["LLaMA-Factory", "axolotl", "TRL"])
@pytest.mark.parametrize("value", mostly_slow([True, 3, "x", ["x"], {"x": 1}], ["x"]))
def test_every_key_is_translated_or_reported(tool, value):
    for stage in ("sft", "ppo", "grpo"):
        for key in {*table()["keys"]} - {"stage", "rl"}:
            config = ForeignConfig(tool, stage, {key: value}, "theirs.yaml")
            found = translate_config(config)
            reported = {re.split(r"[.\[]", one.key)[0] for one in found.undecided} | found.needless.keys()
            written = {one.why for one in found.settings.values()} | found.settings.keys()
            assert key in reported | written | SOURCES[tool](config).read | stage_keys(config), (stage, key)


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
        ("base_model: m\nrl: simpo", [], "rl: 'simpo' -> hfkit translates these: dpo, grpo"),
        ("learning_rate: 1", [], "--from: 'theirs.yaml' -> for none of these tools"),
        ("- a\n- b", [], "expected a mapping"),
        ("", [], "expected a mapping"),
        ("lora_rank: 8\nlora_rank: 9", [], "given twice"),
        ("a: !!python/object/apply:os.getcwd []", [], "not valid YAML"),
        ("dataset_name: d", [], "--goal: missing -> a config of TRL does not show its stage"),
        ("dataset_name: d", ["--goal", "tokenizer"], "--goal: 'tokenizer' -> "),
        ("lora_rank: 8", ["--goal", "dpo"], "--goal: 'dpo' -> the file is for sft"),
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
