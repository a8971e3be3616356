"""The SFT stage: which rows and tokens it trains on, what it reports as dropped, and what it saves."""

import json

import pytest
import torch
from quick import slow
from read_rows import encode_conversation
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hfkit.core.errors import ConfigError, HfkitError
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

PROMPT = "What does Ann like?"


@pytest.mark.any_device
def test_the_folder_is_an_adapter_with_tokenizer_generation_config_and_card(sft_dir, base_dir, tokenizer):
    config = json.loads((sft_dir / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"], config["r"]) == (str(base_dir), "CAUSAL_LM", 4)
    assert AutoTokenizer.from_pretrained(sft_dir).chat_template == tokenizer.chat_template
    assert json.loads((sft_dir / "generation_config.json").read_text())["eos_token_id"] == [tokenizer.eos_token_id]
    card = (sft_dir / "README.md").read_text()
    assert "library_name: peft" in card
    assert str(base_dir.parent) not in card


@pytest.mark.any_device
def test_held_out_loss_is_measured_before_and_after(sft_dir):
    evaluated = [row["eval_loss"] for row in read_metrics(sft_dir) if "eval_loss" in row]
    assert evaluated[0] > evaluated[-1] == read_record(sft_dir)["metrics"]["eval_loss"]


@pytest.mark.any_device
def test_conversations_train(run_stage, tmp_path, rows_file):
    turns = [{"role": role, "content": "Hello"} for role in ("user", "assistant") * 2]
    datasets = rows_file([{"messages": turns}] * 8)
    folder = run_stage("sft", tmp_path / "out", datasets=datasets, test_split_size=None, max_steps=2)
    assert read_record(folder)["data"]["train"]["kept"] == 8


@pytest.mark.parametrize("stage", ["sft", slow("reward")])
def test_a_configured_pad_token_is_saved(run_stage, tmp_path, stage):
    """hfkit sets it, because TRL deprecated its own `pad_token`."""
    folder = run_stage(stage, tmp_path / "out", pad_token="<|user|>", max_steps=1)
    assert AutoTokenizer.from_pretrained(folder).pad_token == "<|user|>"


def test_full_fine_tuning_trains_every_weight(run_stage, base_dir, tmp_path):
    folder = run_stage("sft", tmp_path / "out", use_peft=None, lora_r=None, max_steps=2)
    before, after = (load_file(path / "model.safetensors") for path in (base_dir, folder))
    assert all(not torch.equal(before[name], after[name]) for name in before if "norm" not in name)


def test_prompt_tokens_are_not_in_the_loss(run_stage, base_dir, tmp_path, rows_file):
    """The loss at the first step is that of the responses alone, computed here by hand."""
    import hfkit

    pairs = [(PROMPT, "Ann likes red."), ("Tell me what Bob, who is old, may like!", "blue")]
    datasets = rows_file([{"prompt": prompt, "response": reply} for prompt, reply in pairs])
    changes = {"test_split_size": None, "max_steps": 1, "per_device_train_batch_size": 2, "lora_dropout": 0.0}
    folder = run_stage("sft", tmp_path / "out", datasets=datasets, **changes)
    model, tokenizer = hfkit.load_policy(str(base_dir))
    total, count = 0.0, 0
    for prompt, reply in pairs:
        ids, is_trained = encode_conversation(tokenizer, prompt, reply)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(float(logprobs[i - 1, ids[i]]) for i, trained in enumerate(is_trained) if trained)
        count += sum(is_trained)
    assert read_metrics(folder)[0]["loss"] == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"load_in_4bit": True, "use_peft": False, "lora_r": None}, ["load_in_4bit"]),
        ({"use_peft": False}, ["lora_r"]),
        ({"max_length": 1024}, ["max_length"]),
        ({"completion_only_loss": True}, ["completion_only_loss"]),
        ({"model_name_or_path": "/no/such/folder"}, ["model_name_or_path"]),
        ({"learning_rate": -1, "lora_dropout": "much", "optimm": "sgd"}, ["learning_rate", "lora_dropout", "optimm"]),
        ({"load_in_4bit": True, "dtype": "auto"}, ["dtype"]),
        ({"load_in_8bit": True, "use_peft": False, "lora_r": None}, ["load_in_8bit"]),
        ({"load_in_4bit": True, "load_in_8bit": True}, ["load_in_8bit"]),
    ],
)
def test_all_problems_are_reported_by_their_keys(config_of, tmp_path, changes, keys):
    with pytest.raises(ConfigError) as raised:
        config_of("sft", tmp_path, **changes)
    assert sorted(problem.key for problem in raised.value.problems) == keys


@pytest.mark.slow
def test_a_field_of_trls_own_config_reaches_the_trainer(run_stage, tmp_path):
    folder = run_stage("sft", tmp_path / "out", neftune_noise_alpha=5.0, max_steps=1)
    assert read_record(folder)["config"]["neftune_noise_alpha"] == 5.0
    plain = run_stage("sft", tmp_path / "plain", max_steps=1)
    losses = [read_metrics(path)[1]["loss"] for path in (folder, plain)]
    assert losses[0] != losses[1]


LONG = "red and blue and green and pink " * 30


def test_pain_30_rows_lost_to_max_length_are_reported_and_too_many_fail(run_stage, tmp_path, rows_file, capsys):
    rows = [{"prompt": PROMPT, "response": f"red {number}"} for number in range(38)]
    rows += [{"prompt": LONG, "response": "red"}, {"prompt": PROMPT, "response": LONG}]
    datasets = rows_file(rows)
    folder = run_stage("sft", tmp_path / "out", datasets=datasets, test_split_size=None, max_steps=1)
    printed = capsys.readouterr().out
    assert "train: 40 rows, 39 kept, 1 dropped (1 with no response within max_length=64), 1 cut (by " in printed
    split = read_record(folder)["data"]["train"]
    assert (split["rows"], split["kept"], split["cut"]) == (40, 39, 1)
    with pytest.raises(HfkitError, match=r"1 of 40 rows are dropped\. The median row is"):
        run_stage("sft", tmp_path / "other", datasets=datasets, test_split_size=None, max_dropped=0.01)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("cut", [1, slow(39)])
def test_rows_that_are_only_cut_stop_no_run_and_many_are_a_warning(run_stage, tmp_path, rows_file, capsys, cut):
    rows = [{"prompt": PROMPT, "response": f"{number} {LONG if number < cut else ''}"} for number in range(40)]
    datasets = rows_file(rows)
    folder = run_stage("sft", tmp_path / "out", datasets=datasets, test_split_size=None, max_steps=1, max_dropped=0.0)
    split, printed = read_record(folder)["data"]["train"], capsys.readouterr()
    assert (split["kept"], split["cut"]) == (40, cut)
    assert f"{cut} cut (by {split['cut_tokens']:,} tokens)" in printed.out
    warned = f"{split['cut_tokens']:,} tokens at their ends. Raise max_length or shorten the rows"
    assert (warned in printed.err) == (cut > 4)
