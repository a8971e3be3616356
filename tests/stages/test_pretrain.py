"""The pretraining stage: it learns, logs bits per byte, and its loss does not depend on the shape of the batch."""

import copy
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_models import model_of
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.rendering import template_kwargs
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.training.callbacks import Samples


@pytest.mark.any_device
def test_the_folder_is_an_ordinary_model_with_its_tokenizer_and_curves(base_dir, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    assert model.config.vocab_size == len(tokenizer)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    generation = json.loads((base_dir / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (
        [tokenizer.eos_token_id],
        tokenizer.pad_token_id,
    )
    names = {path.name for path in base_dir.iterdir() if path.is_file()}
    assert names >= {"README.md", "chat_template.jinja", "hfkit.json", "loss.png", "metrics.jsonl", "tokenizer.json"}
    assert not {name for name in names if name.startswith(".")}


@pytest.mark.any_device
def test_the_loss_falls(base_dir):
    losses = [row["loss"] for row in read_metrics(base_dir) if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.5
    assert read_record(base_dir)["metrics"]["train_loss"] == pytest.approx(sum(losses) / 12)


@pytest.mark.any_device
def test_held_out_loss_perplexity_and_bits_per_byte_agree(run_stage, tmp_path, capsys):
    changes = {"test_split_size": 24, "eval_strategy": "steps", "eval_steps": 6}
    folder = run_stage(
        "pretrain", tmp_path / "out", **changes, sample_prompts=["Ann\x1b[2J likes", ""], sample_length=3
    )
    metrics, split = read_record(folder)["metrics"], read_record(folder)["data"]["test"]
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))
    assert (split["rows"], split["kept"]) == (24, 24)
    texts = [json.loads(line)["text"] for line in open(read_record(folder)["config"]["datasets"][0]["path"])]
    bytes_a_row = sum(len(text) for text in texts) / len(texts)  # all rows have about the same length
    bits = metrics["eval_loss"] / math.log(2) * split["tokens"] / 24 / bytes_a_row
    assert metrics["eval_bits_per_byte"] == pytest.approx(bits, rel=0.05)
    assert [row["step"] for row in read_metrics(folder) if "eval_loss" in row] == [6, 12]
    printed = capsys.readouterr().out
    assert (printed.count("  > "), printed.count(r"  > Ann\x1b[2J likes")) == (4, 2)


@pytest.mark.slow
@pytest.mark.any_device
def test_a_checkpoint_is_continued_in_full_or_by_an_adapter(run_stage, base_dir, tmp_path):
    changes = {"model_config": {}, "tokenizer_name_or_path": None, "model_name_or_path": str(base_dir), "max_steps": 2}
    full = run_stage("pretrain", tmp_path / "full", **changes)
    before, after = (load_file(folder / "model.safetensors") for folder in (base_dir, full))
    assert all(not torch.equal(before[name], after[name]) for name in before if "norm" not in name)
    adapted = run_stage("pretrain", tmp_path / "adapter", **changes, use_peft=True)
    assert (adapted / "adapter_model.safetensors").is_file()
    assert not (adapted / "model.safetensors").exists()
    assert read_record(adapted)["lineage"][0]["path"] == str(base_dir)


def test_the_tokenizer_of_a_checkpoint_is_that_of_its_revision(run_stage, hub, base_dir, tokenizer, tmp_path):
    name = hub("a" * 40, base_dir)
    later = Path(shutil.copytree(base_dir, tmp_path / "later"))
    (later / "tokenizer.json").write_text("{")
    hub("b" * 40, later)
    changes = {"model_config": {}, "tokenizer_name_or_path": None, "max_steps": 1}
    folder = run_stage("pretrain", tmp_path / "out", **changes, model_name_or_path=f"{name}@{'a' * 40}")
    assert load_tokenizer(str(folder)).get_vocab() == tokenizer.get_vocab()


def test_other_architectures_of_transformers_can_be_trained(run_stage, tmp_path):
    shape = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    folder = run_stage("pretrain", tmp_path / "out", model_config=shape, max_steps=1)
    assert AutoModelForCausalLM.from_pretrained(folder).config.model_type == "gpt2"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_config": {"model_type": "lama"}}, "model_config.model_type"),
        ({"model_config": {"model_type": "llama", "hidden_sise": 32}}, "model_config.hidden_sise"),
        ({"model_config": {}}, "model_config"),
        ({"tokenizer_name_or_path": None}, "tokenizer_name_or_path"),
        ({"block_size": 512}, "block_size"),
        ({"use_peft": True}, "use_peft"),
        ({"eval_strategy": "steps"}, "eval_strategy"),
        ({"test_split_size": -1}, "test_split_size"),
        ({"max_grad_norm": 0}, "max_grad_norm"),
        ({"max_tokens_per_micro_batch": 0}, "max_tokens_per_micro_batch"),
        ({"max_tokens_per_micro_batch": 64, "micro_batches_by_length": False}, "max_tokens_per_micro_batch"),
    ],
)
def test_a_contradiction_is_reported_by_its_key(config_of, tmp_path, changes, key):
    with pytest.raises(ConfigError) as raised:
        config_of("pretrain", tmp_path, **changes)
    assert [problem.key for problem in raised.value.problems] == [key]


def test_pain_33_accumulation_does_not_change_the_loss(run_stage, tmp_path):
    shapes = ((8, 1), (1, 8))
    runs = [
        run_stage(
            "pretrain",
            tmp_path / f"{size}x{steps}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=4,
        )
        for size, steps in shapes
    ]
    one, other = ([row["loss"] for row in read_metrics(folder) if "loss" in row] for folder in runs)
    assert len(one) == 4
    assert one == pytest.approx(other, rel=1e-5)


def test_variables_of_the_chat_template_are_saved_and_unknown_ones_refused(run_stage, tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ mood }}{% for message in messages %}{{ message.content }}{% endfor %}")
    changes = {"chat_template": str(tmp_path / "chat.jinja"), "max_steps": 1}
    with pytest.raises(HfkitError, match="no variable mod; it reads mood"):
        run_stage("pretrain", tmp_path / "unknown", **changes, chat_template_kwargs={"mod": "glad"})
    folder = run_stage("pretrain", tmp_path / "known", **changes, chat_template_kwargs={"mood": "glad"})
    assert template_kwargs(AutoTokenizer.from_pretrained(folder)) == {"mood": "glad"}


@pytest.mark.parametrize("begins", [False, True], ids=["", "a token begins texts"])
def test_an_empty_sample_prompt_is_the_beginning_of_a_document(tokenizer, begins):
    tokenizer, model, seen = copy.deepcopy(tokenizer), model_of("llama", len(tokenizer)), []
    first = 7
    if begins:
        token = tokenizer.convert_ids_to_tokens(first)
        template = TemplateProcessing(single=f"{token} $A", special_tokens=[(token, first)])
        tokenizer.backend_tokenizer.post_processor = template
    hook = {"hook": lambda model, args, kwargs: seen.append(kwargs["input_ids"].tolist()), "with_kwargs": True}
    model.register_forward_pre_hook(**hook)
    Samples(tokenizer, [""], 2).on_evaluate(SimpleNamespace(bf16=False), TrainerState(), None, model)
    assert seen[0] == [[first if begins else tokenizer.eos_token_id]]
