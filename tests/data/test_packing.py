"""Packing: documents in one row are independent in every mode except concatenation."""

import json
import re
from itertools import chain

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from quick import mostly_slow
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import PretrainConfig
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data import packing
from hfkit.data.encoding import iter_texts
from hfkit.data.packing import pack_documents
from hfkit.data.splits import SplitStats
from hfkit.models.packed_attention import require_separation, separating_collator
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

HEADS = {"num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}
GROUPED = {**HEADS, "num_key_value_heads": 1}
SEPARATING = {
    "llama": HEADS,
    "qwen2": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 4},
    "gemma3_text": {**GROUPED, "head_dim": 16, "sliding_window": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "embd_pdrop": 0, "attn_pdrop": 0, "resid_pdrop": 0},
    "gpt_neox": HEADS,
}
LEAKING = {
    "opt": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2},
}
DOCUMENTS = [[5, 9, 14, 2, 61, 33, 7], [8, 8, 41, 40, 39, 2, 17, 90, 6], [70], [12, 66, 3]]


def model_of(name: str, shape: dict, attention: str = "eager"):
    torch.manual_seed(0)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(name, vocab_size=100, **tokens, **shape)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def trainer_of(model, tokenizer, tmp_path, **changes) -> Trainer:
    arguments = TrainingArguments(tmp_path, use_cpu=True, report_to="none", **changes)
    return Trainer(model, arguments, data_collator=separating_collator(tokenizer), processing_class=tokenizer)


@pytest.fixture(params=["eval", "training, checkpointing, LoRA"])
def mode(request):
    """mode(model) -> the model in eval mode or in training mode."""

    def apply(model):
        if request.param == "eval":
            return model.eval()
        model.gradient_checkpointing_enable()
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights="gaussian"))
        model.enable_input_require_grads()
        return model.train()

    return apply


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning", "ignore:fan_in_fan_out:UserWarning")
@pytest.mark.parametrize("attention", mostly_slow(["eager", "sdpa"], ["sdpa"]))
@pytest.mark.parametrize("name", SEPARATING)
def test_pain_31_every_document_has_the_logits_that_it_has_alone(tokenizer, tmp_path, mode, name, attention):
    model = mode(model_of(name, SEPARATING[name], attention))
    trainer = trainer_of(model, tokenizer, tmp_path)
    require_separation(trainer)
    rows = [DOCUMENTS[:2], DOCUMENTS[2:]]  # a batch of two rows with two documents each
    batch = trainer.data_collator(
        [{"input_ids": [*chain(*row)], "seq_lengths": [len(document) for document in row]} for row in rows]
    )
    labels = batch.pop("labels")
    packed = model(**batch).logits[0]
    alone = torch.cat([model(torch.tensor([document])).logits[0] for document in DOCUMENTS])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    starts = [sum(map(len, DOCUMENTS[:index])) for index in range(4)]
    assert [index for index, label in enumerate(labels[0].tolist()) if label == -100] == starts


@pytest.mark.parametrize("name", LEAKING)
def test_a_model_whose_documents_attend_to_each_other_is_refused_with_the_reason(tokenizer, tmp_path, name):
    with pytest.raises(HfkitError, match=f"packing: {name} with attn_implementation=eager does not separate"):
        require_separation(trainer_of(model_of(name, LEAKING[name]), tokenizer, tmp_path))


def test_the_probe_restores_the_mode_of_the_model(tokenizer, tmp_path):
    trainer = trainer_of(model_of("llama", HEADS).train(), tokenizer, tmp_path)
    require_separation(trainer)
    assert trainer.model.training


def test_the_probe_computes_in_the_precision_of_training(tokenizer, tmp_path):
    """Flash attention, for example, does not support float32."""
    model = model_of("llama", HEADS)
    dtypes = set()
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *call: dtypes.add(call[-1].dtype))
    require_separation(trainer_of(model, tokenizer, tmp_path, bf16=True))
    assert dtypes == {torch.bfloat16}


def logged(folder, key: str) -> list[float]:
    return [row[key] for row in read_metrics(folder) if key in row]


def test_sft_with_packing_learns_the_same_from_fewer_rows(run_stage, tmp_path, capsys):
    """One step over all rows: the loss, its gradient and the held-out loss equal those of unpacked rows."""
    changes = {"max_steps": 1, "lora_dropout": 0.0, "eval_strategy": "steps"}
    changes |= {"eval_steps": 1, "per_device_train_batch_size": 24, "weight_decay": 0.0}
    plain = run_stage("sft", tmp_path / "plain", **changes)
    packed = run_stage("sft", tmp_path / "packed", **changes, packing=True)
    assert int(re.search(r"24 rows packed into (\d+) of at most 64 tokens", capsys.readouterr().out)[1]) == 12
    for key in ("loss", "eval_loss", "grad_norm", "num_tokens", "num_input_tokens_seen"):
        assert logged(packed, key) == pytest.approx(logged(plain, key), rel=1e-5), key
    kept = [read_record(folder)["data"]["train"]["kept"] for folder in (plain, packed)]
    assert kept == [24, 24]


@pytest.mark.parametrize("bits", mostly_slow(["load_in_4bit", "load_in_8bit"], ["load_in_4bit"]))
def test_documents_are_separated_on_a_quantized_base_too(run_stage, tmp_path, bits):
    folder = run_stage("sft", tmp_path / "out", packing=True, max_steps=1, **{bits: True})
    assert read_record(folder)["status"] == "done"


def test_pretraining_on_separated_documents_equals_that_on_each_alone(run_stage, tmp_path):
    changes = {"max_steps": 1, "per_device_train_batch_size": 200, "learning_rate": 0}
    folder = run_stage("pretrain", tmp_path / "out", packing="documents", block_size=48, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [json.loads(line)["text"] for line in open(read_record(folder)["config"]["datasets"][0]["path"])]
    total = count = 0
    for text, times in {text: texts.count(text) for text in texts}.items():
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text).input_ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            total += times * float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += times * (ids.shape[1] - 1)
    assert logged(folder, "loss")[0] == pytest.approx(total / count, rel=1e-5)
    assert read_record(folder)["data"]["train"]["tokens"] == count  # each token of a text is predicted


def test_no_document_is_lost_and_a_long_one_is_continued(tokenizer):
    texts = ["Ann likes red.", "Bob likes blue. " * 6, "Cid likes green and pink."]
    stats = SplitStats("train", rows=3, kept=3)
    config = PretrainConfig(
        output_dir="unused", datasets=[DatasetEntry(path="unused")], block_size=16, packing="documents"
    )
    rows, tokens_per_byte = pack_documents(Dataset.from_dict({"text": texts}), tokenizer, stats, config)
    assert all(len(row["input_ids"]) == sum(row["seq_lengths"]) <= 16 for row in rows)
    eos = tokenizer.eos_token_id
    encoded = [[eos, *tokenizer(text).input_ids, eos] for text in texts]
    fragments = sorted(document[at : at + 16] for document in encoded for at in range(0, len(document), 16))
    found = []
    for row in rows:
        ids = iter(row["input_ids"])
        found += [[next(ids) for _ in range(length)] for length in row["seq_lengths"]]
    assert sorted(found) == fragments
    assert stats.tokens == sum(map(len, encoded)) - 3 == tokens_per_byte * len("".join(texts))


def test_packing_is_refused_before_a_step_is_taken(run_stage, tmp_path, tokenizer_dir):
    with pytest.raises(HfkitError, match="packing: opt with"):
        shape = {"model_type": "opt", **LEAKING["opt"], "max_position_embeddings": 64}
        run_stage("pretrain", tmp_path / "out", model_config=shape, packing="documents")
    assert read_record(tmp_path / "out")["status"] == "failed"
    assert not logged(tmp_path / "out", "loss")


@pytest.mark.parametrize(
    ("stage", "changes", "reported"),
    [
        ("sft", {"packing": "wrapped"}, "packing"),
        ("sft", {"packing_strategy": "wrapped"}, "best fit first"),
        ("sft", {"eval_packing": True}, "held-out rows are never packed"),
        ("sft", {"padding_free": True}, "set packing"),
        ("pretrain", {"packing": "wrapped"}, "concatenate"),
        ("reward", {"packing": True}, "only pretrain and sft pack"),
    ],
)
def test_other_ways_to_pack_are_reported_by_their_keys(config_of, tmp_path, stage, changes, reported):
    with pytest.raises(ConfigError, match=reported) as error:
        config_of(stage, tmp_path, **changes)
    assert [problem.key for problem in error.value.problems] == [*changes]


def test_a_batch_of_long_rows_is_no_more_than_a_list_can_hold(tokenizer, monkeypatch):
    assert packing.batch_of(np.full(300_000, 800)) == {"batch_size": 100_000}
    assert packing.batch_of(np.full(5, 10**9)) == {"batch_size": 1}
    assert packing.batch_of(np.full(200_000, 40_000))["batch_size"] * 40_000 <= 2**31 / 8
    rows = Dataset.from_dict({"text": ["Ann likes red and blue."] * 50})
    config = PretrainConfig(
        output_dir="unused", datasets=[DatasetEntry(path="unused")], block_size=16, packing="documents"
    )
    monkeypatch.setattr(packing, "TOKENS", 100)
    packed, _ = pack_documents(rows, tokenizer, SplitStats("train", rows=50, kept=50), config)
    assert sum(map(len, packed["input_ids"])) == 50 * (len(tokenizer("Ann likes red and blue.").input_ids) + 2)


def test_rows_that_were_chosen_are_read_in_few_pieces():
    rows = Dataset.from_dict({"text": [f"text {n}" for n in range(12_000)], "other": [*range(12_000)]})
    pieces = [*iter_texts(rows.select(np.arange(1, 12_000, 2)))]
    assert [len(piece) for piece in pieces] == [5000, 1000]
    assert all(getattr(piece, "num_chunks", 1) == 1 for piece in pieces)
    assert pieces[0][1].as_py() == "text 3"
