"""Configs and datasets of LLaMA-Factory become YAMLs of hfkit."""

import json
import re

import pytest
from foreign_fixtures import values

from hfkit.commands.init.foreign import read_foreign
from hfkit.config.parsing import load_config
from hfkit.config.registry import STAGES
from hfkit.data.comparisons import COMPARISONS, encode_comparisons
from hfkit.data.forms import INSTRUCTIONS, encode_instructions
from hfkit.data.splits import load_splits
from hfkit.models.tokenizers import load_stage_tokenizer

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


def test_llamafactory(translated, tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    found = translated(LLAMAFACTORY.format(folder=tmp_path, token="a" * 34))
    pairs = {"path": str(tmp_path / "pairs.json"), "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}
    hub = {"path": "someone/pairs", "name": "en", "split": "train[:10]"}
    assert values(found) == {
        **{"model_name_or_path": "my-model", "use_peft": True, "load_in_4bit": True, "lora_r": 16},
        **{"lora_target_modules": ["q_proj", "v_proj"], "loss_type": ["ipo", "sft"], "loss_weights": [1.0, 0.5]},
        **{"beta": 0.2, "max_length": 4096, "learning_rate": 5e-6, "warmup_steps": 0.1, "test_split_size": 0.1},
        **{"attn_implementation": "flash_attention_2", "output_dir": "saves/dpo"},
        **{"num_train_epochs": 3.0, "per_device_train_batch_size": 8},  # its defaults
        "datasets": [{**pairs, "split": "train[:1000]", "weight": 0.7}, {**hub, "rows": 1000, "weight": 0.3}],
    }
    assert [problem.key for problem in found.undecided] == ["use_galore"]
    assert [problem.key for problem in found.differences] == ["pref_loss"]
    assert {*found.needless} == {"trust_remote_code", "do_train", "template", "plot_loss", "hub_token"}


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
def test_recipes_of_llamafactory(translated, tmp_path, text, wanted, undecided):
    found = translated(f"{RECIPE}{text}\n")
    config = load_config(STAGES[read_foreign(str(tmp_path / "theirs.yaml"), None).stage].config_class, values(found))
    common = {"use_peft": True, "lora_r": 8, "learning_rate": 1e-4, "num_train_epochs": 3.0, "warmup_steps": 0.1}
    assert {key: getattr(config, key) for key in common | wanted} == common | wanted
    assert [(one.path, one.split) for one in config.datasets] == [("someone/rows", "train[:1000]")]
    assert [one.key for one in found.undecided] == undecided


ALPACA = {"columns": {"prompt": "{instruction}\n{input}", "response": "output"}}
"""What LLaMA-Factory reads of a dataset whose columns dataset_info.json does not name."""


@pytest.mark.parametrize(
    ("stage", "described", "entry", "undecided"),
    [
        ("pt", {"columns": {"prompt": "content"}}, {"columns": {"text": "content"}}, []),
        ("sft", {}, ALPACA, []),
        ("sft", {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}, ALPACA, []),
        (
            "sft",
            {"columns": {"prompt": "instruction", "response": "output"}},
            {"columns": {"prompt": "instruction", "response": "output"}},
            [],
        ),
        (
            "sft",
            {"columns": {"prompt": "q", "response": "a", "history": "before", "system": "role"}},
            {
                "columns": {"prompt": "q", "response": "a", "history": "before", "system": "role"},
                "convert": ["history"],
            },
            [],
        ),
        ("sft", {"columns": {"prompt": "prompt", "response": "response"}}, {}, []),
        (
            "rm",
            {"ranking": True, "columns": {"prompt": "instruction", "query": "input", "chosen": "a", "rejected": "b"}},
            {"columns": {"prompt": "{instruction}\n{input}", "chosen": "a", "rejected": "b"}},
            [],
        ),
        (
            "rm",
            {
                "ranking": True,
                "formatting": "sharegpt",
                "columns": {"messages": "dialog", "chosen": "chosen", "rejected": "rejected"},
            },
            {"columns": {"prompt": "dialog", "chosen": "chosen", "rejected": "rejected"}},
            [],
        ),
        (
            "sft",
            {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "role", "tools": "tools"}},
            {
                "columns": {"messages": "conversations", "system": "role", "tools": "tools"},
                "convert": ["function_calls"],
            },
            [],
        ),
        (
            "sft",
            {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images"}},
            {},
            ["columns.images"],
        ),
        (
            "sft",
            {"formatting": "sharegpt", "columns": ["a"], "tags": {"role_tag": 3}},
            {},
            ["columns", "tags.role_tag"],
        ),
        ("sft", {"formatting": "sharegpt", "num_samples": 5, "folder": "de"}, {"rows": 5}, ["folder"]),
        ("rm", {"ranking": True, "formatting": "sharegpt", "tags": {"role_tag": "who"}}, {}, ["tags.role_tag"]),
    ],
)
def test_datasets_of_llamafactory(translated, tmp_path, stage, described, entry, undecided):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "a.json", **described}}))
    found = translated(f"stage: {stage}\nmodel_name_or_path: m\ndataset: mine\neval_dataset: mine\nmax_samples: 9")
    most = {} if "rows" in entry else {"split": "train[:9]"}
    entry = {"path": str(tmp_path / "data" / "a.json"), **most, **entry}
    assert values(found)["datasets"] == values(found)["eval_datasets"] == [entry]
    assert [one.key for one in found.undecided] == [f"dataset_info.json: mine.{one}" for one in undecided * 2]


@pytest.mark.parametrize(
    ("strategy", "weights", "undecided"),
    [
        ("concat", [None, None], []),
        ("interleave_under", [1.0, 1.0], []),
        ("interleave_under\ninterleave_probs: 0.9,0.1", [0.9, 0.1], []),
        ("interleave_over", [None, None], ["mix_strategy"]),
        ("interleave_over\ninterleave_probs: 0.9,0.1", [None, None], ["mix_strategy", "interleave_probs"]),
    ],
)
def test_mixtures_of_llamafactory(translated, strategy, weights, undecided):
    found = translated(f"stage: sft\nmodel_name_or_path: m\ndataset: a/b,c/d\nmix_strategy: {strategy}")
    assert [one.get("weight") for one in values(found)["datasets"]] == weights
    assert [one.key for one in found.undecided] == undecided


@pytest.mark.parametrize(
    ("text", "wanted", "undecided"),
    [
        ("stage: sft\ntemplate: chatml", {"chat_template": "chatml"}, ""),
        ("stage: sft\ntemplate: llama3", {"chat_template": None}, ""),
        ("stage: dpo\ntemplate: default", {"chat_template": None}, "hfkit has no such template"),
        ("stage: pt\npacking: false", {"packing": None}, "hfkit always packs texts"),
        ("stage: sft\npacking: false", {"packing": False}, ""),
        ("stage: sft\npacking: true", {"packing": True}, "conversations in a row of hfkit do not attend"),
        ("stage: dpo\npref_loss: hinge", {"loss_type": "hinge"}, "hfkit trains this loss"),
        ("stage: dpo\npref_loss: sigmoid", {"loss_type": "sigmoid"}, ""),
        ("stage: dpo\nadapter_name_or_path: a", {"model_name_or_path": "a"}, "the reference of hfkit is this adapter"),
        ("stage: sft\nadapter_name_or_path: a", {"model_name_or_path": "a"}, ""),
        ("stage: sft\nfinetuning_type: freeze", {"use_peft": None}, "hfkit trains all weights or an adapter"),
        ("stage: dpo\nref_model: m", {}, ""),
        ("stage: dpo\nref_model: other", {}, "the reference is the model that training starts from"),
        ("stage: sft\nadapter_name_or_path: a\ncreate_new_adapter: true", {"model_name_or_path": "a"}, "hfkit trains"),
        ("stage: rm\ndisable_gradient_checkpointing: true", {"gradient_checkpointing": False}, ""),
        (
            "stage: sft\neval_strategy: epoch\nval_size: 0.1\nload_best_model_at_end: true\nsave_strategy: epoch\n"
            "early_stopping_steps: 3",
            {"early_stopping_patience": 3},
            "",
        ),
        ("stage: sft\ndisable_shuffling: true", {"train_sampling_strategy": "sequential"}, ""),
    ],
)
def test_values_of_llamafactory(translated, text, wanted, undecided):
    found = translated(f"model_name_or_path: m\ndataset: a/b\n{text}")
    assert {key: values(found).get(key) for key in wanted} == wanted
    remedies = [one.remedy for one in found.undecided + found.differences]
    assert len(remedies) == bool(undecided) and all(one.startswith(undecided) for one in remedies)


SUM = {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}
NAMED = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
TURNS = [("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello!"), ("human", "Name a colour."), ("gpt", "Green.")]
BRIEF = "<|im_start|>system\nBe brief.<|im_end|>\n"
HELLO = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[[Hello!<|im_end|>\n]]"
ADD = "<|im_start|>user\nAdd the numbers.\n1, 2<|im_end|>\n<|im_start|>assistant\n"
COLOUR = "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n[[Green.<|im_end|>\n]]"


def marked(tokenizer, ids: list[int], labels: list[int]) -> str:
    """Return the text of a row, with its trained tokens in brackets."""
    text, trained = "", False
    for token, label in zip(ids, labels, strict=True):
        text += "" if trained == (label != -100) else "]]" if trained else "[["
        text, trained = text + tokenizer.decode([token]), label != -100
    return f"{text}]]" if trained else text


@pytest.mark.parametrize(
    ("described", "row", "theirs"),
    [
        ({}, SUM, f"{ADD}[[3<|im_end|>\n]]"),
        (
            {"columns": {"prompt": "instruction", "response": "output"}},
            SUM,
            "<|im_start|>user\nAdd the numbers.<|im_end|>\n<|im_start|>assistant\n[[3<|im_end|>\n]]",
        ),
        ({}, {"instruction": "Name a colour.", "input": "", "output": "Green."}, COLOUR),
        (
            {"columns": NAMED},
            {**SUM, "system": "Be brief.", "history": [["Hi", "Hello!"]]},
            f"{BRIEF}{HELLO}{ADD}[[3<|im_end|>\n]]",
        ),
        (
            {"formatting": "sharegpt"},
            {"conversations": [{"from": role, "value": text} for role, text in TURNS]},
            f"{BRIEF}{HELLO}{COLOUR}",
        ),
    ],
)
def test_rows_of_sft_have_the_tokens_of_llamafactory(translated, tmp_path, tokenizer_for, described, row, theirs):
    """`theirs` is what LLaMA-Factory 0.9.5 made of these rows; it also trains the line break after a turn."""
    config, tokenizer = small_config(translated, tmp_path, tokenizer_for("Qwen 2.5"), "sft", described, row)
    rows, _, stats = load_splits(config, INSTRUCTIONS)
    [found] = encode_instructions(rows, tokenizer, stats["train"], config)
    ours = re.sub(r"<\|im_end\|>\n\]\]", "<|im_end|>]]\n", theirs).removesuffix("\n")
    assert marked(tokenizer, found["input_ids"], found["labels"]) == ours


@pytest.mark.parametrize("stage", ["rm", "dpo"])
def test_pairs_have_the_tokens_of_llamafactory(translated, tmp_path, tokenizer_for, stage):
    described = {"columns": {"prompt": "instruction", "query": "input", "chosen": "good", "rejected": "bad"}}
    row = {"instruction": "Add the numbers.", "input": "1, 2", "good": "3", "bad": "4"}
    config, tokenizer = small_config(translated, tmp_path, tokenizer_for("Qwen 2.5"), stage, described, row)
    rows, _, stats = load_splits(config, COMPARISONS)
    [found] = encode_comparisons(rows, tokenizer, stats["train"], config)
    ours = [tokenizer.decode(found[name]) for name in ("chosen_ids", "rejected_ids")]
    assert ours == [f"{ADD}3<|im_end|>", f"{ADD}4<|im_end|>"]  # LLaMA-Factory 0.9.5 adds a line break


def small_config(translated, folder, tokenizer, stage: str, described: dict, row: dict):
    """Return the translated config of a dataset with one row, and the tokenizer of its stage."""
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "model")
    (folder / "rows.json").write_text(json.dumps([row]))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", **described}}))
    common = f"model_name_or_path: {folder / 'model'}\ndataset: mine\ndataset_dir: {folder}\ntemplate: chatml"
    found = values(translated(f"stage: {stage}\n{common}\noutput_dir: {folder / 'run'}"))
    config = load_config(STAGES[{"rm": "reward"}.get(stage, stage)].config_class, found)
    return config, load_stage_tokenizer(config)
