"""A merged model is the adapter on its base, in one ordinary folder that is written whole or not at all."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NAMES, ROWS, write_rows
from forks import run_without_hfkit
from huggingface_hub import ModelCard
from meter import ModelMeter
from quick import mostly_slow
from read_rows import encode_conversation
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig, LlamaModel

import hfkit
from hfkit.commands.merge import merge
from hfkit.data.comparisons import encode_comparisons
from hfkit.data.forms import encode_instructions
from hfkit.evaluation.merge_comparison import comparison, measure
from hfkit.records.record import read_record, weights_hash

PROMPTS = [f"What does {name} like?" for name in NAMES]
REPLIES = [f"{name} likes red, thank you." for name in NAMES]
QLORA = {"load_in_4bit": True, "bf16": False}
# argv: file of the rows, then pairs of kind=folder; writes FOLDER.npy next to the rows.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

rows = torch.from_numpy(np.load(sys.argv[1]))
for argument in sys.argv[2:]:
    kind, folder = argument.split("=")
    model = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}[kind].from_pretrained(folder)
    assert model.config.pad_token_id == AutoTokenizer.from_pretrained(folder).pad_token_id
    with torch.no_grad():
        logits = model.eval()(rows, attention_mask=(rows != model.config.pad_token_id).long()).logits
    np.save(Path(sys.argv[1]).with_name(Path(folder).name + ".npy"), logits.float().numpy())
"""


@pytest.fixture(scope="module")
def rows(tokenizer) -> np.ndarray:
    """8 padded conversations."""
    ids = [encode_conversation(tokenizer, *pair)[0] for pair in zip(PROMPTS, REPLIES, strict=True)]
    return tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="np")["input_ids"]


def logits_of(model, rows: np.ndarray) -> np.ndarray:
    ids = torch.from_numpy(rows)
    with torch.no_grad():
        return model.eval()(ids, attention_mask=(ids != model.config.pad_token_id).long()).logits.float().numpy()


def open_here(path: Path, **options):
    """The model of a policy or reward model."""
    is_reward = "SEQ_CLS" in str(json.loads((path / "adapter_config.json").read_text())["task_type"])
    options = {"quantization": None, **options}  # the base as it is, whatever the adapter was trained over
    return hfkit.load_reward(str(path), **options).model if is_reward else hfkit.load_policy(str(path), **options)[0]


@pytest.fixture(scope="module")
def rslora_dir(run_stage, runs):
    return run_stage("sft", runs / "rslora", use_rslora=True, learning_rate=5e-3)


@pytest.fixture(scope="module")
def qlora_dir(run_stage, runs, data):
    pytest.importorskip("bitsandbytes")
    return run_stage("sft", runs / "qlora", **QLORA)


@pytest.fixture(scope="module")
def qreward_dir(run_stage, runs):
    pytest.importorskip("bitsandbytes")
    return run_stage("reward", runs / "qreward", **QLORA)


ADAPTERS = ["sft_dir", "ppo_dir", "reward_dir", "rslora_dir", "qlora_dir", "qreward_dir"]
each_adapter = pytest.mark.parametrize("name", mostly_slow(ADAPTERS, ["sft_dir", "reward_dir", "qlora_dir"]))


@pytest.fixture(scope="module")
def fresh(merged, folder, rows):
    """fresh(name) -> the logits of a merged adapter by its dtype, as a process without hfkit computed them."""
    np.save(folder / "rows.npy", rows)

    def run(name: str) -> dict[str, np.ndarray]:
        kind = "reward" if "reward" in name else "policy"
        folders = {dtype: merged(name, dtype) for dtype in ("float32", "bfloat16")}
        run_without_hfkit(
            SCRIPT, str(folder / "rows.npy"), *(f"{kind}={path}" for path in folders.values()), cwd=folder
        )
        return {dtype: np.load(folder / f"{path.name}.npy") for dtype, path in folders.items()}

    return run


@each_adapter
def test_pain_27_in_a_fresh_process_it_gives_the_adapters_logits(fresh, rows, name, request):
    here = logits_of(open_here(request.getfixturevalue(name)), rows)
    there = fresh(name)
    assert np.abs(there["float32"] - here).max() < 1e-5
    rounding = 2**-8 * np.abs(here).max()
    assert np.abs(there["bfloat16"] - here).max() < 8 * rounding


@pytest.mark.any_device
@each_adapter
def test_what_is_written_is_the_float32_merge_rounded_once(merged, name):
    exact, rounded = (load_file(merged(name, dtype) / "model.safetensors") for dtype in ("float32", "bfloat16"))
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[key], exact[key].to(torch.bfloat16)) for key in exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", mostly_slow(["sft_dir", "ppo_dir", "rslora_dir", "qlora_dir"], ["qlora_dir"]))
def test_its_perplexity_is_that_of_the_adapter_on_the_unquantized_base(
    merged, request, name, dtype, held_out, tokenizer
):
    losses = [
        measure(hfkit.load_policy(str(path), quantization=None)[0], tokenizer, held_out("sft"))
        for path in (request.getfixturevalue(name), merged(name, dtype))
    ]
    assert math.exp(losses[1] - losses[0]) == pytest.approx(1, rel=1e-5 if dtype == "float32" else 0.01)


@pytest.fixture(scope="module")
def held_out(tokenizer):
    """The encoded rows of a stage."""
    from datasets import Dataset

    from hfkit.data.splits import SplitStats

    def make(stage: str):
        rows, encode = {"sft": ("turns", encode_instructions), "reward": ("pairs", encode_comparisons)}[stage]
        options = SimpleNamespace(max_length=64, dataset_num_proc=None, max_dropped=0.0, score_margin=0.0)
        return encode(Dataset.from_list(ROWS[rows]), tokenizer, SplitStats("test"), options)

    return make


@pytest.mark.parametrize("name", ["sft_dir", "reward_dir"])
def test_it_is_an_ordinary_folder(merged, request, name, tokenizer, base_dir):
    adapter, folder = request.getfixturevalue(name), merged(name)
    assert not any(folder.glob("adapter*"))
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    assert oct(folder.stat().st_mode) == oct(adapter.stat().st_mode)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert (loaded.chat_template, loaded.pad_token) == (tokenizer.chat_template, tokenizer.pad_token)
    if name == "sft_dir":
        ours, theirs = (GenerationConfig.from_pretrained(path).to_dict() for path in (folder, adapter))
        assert ours == theirs
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == {"sft_dir": "text-generation", "reward_dir": "text-classification"}[name]
    assert card.data.base_model is None  # a local folder is not a model on the Hub
    assert str(base_dir.parent) not in card.content
    record = read_record(folder)
    assert (record["stage"], record["status"], record["metrics"], record["seed"]) == ("merge", "done", {}, 42)
    assert record["base"]["weights_sha256"] == weights_hash(base_dir)
    assert (record["lineage"][0]["role"], record["lineage"][0]["weights_sha256"]) == ("adapter", weights_hash(adapter))


@pytest.mark.slow
def test_stages_and_scorers_take_it_as_any_other_model(merged, run_stage, tmp_path, reward_dir):
    reward = hfkit.load_reward(str(merged("reward_dir", "float32")))
    assert torch.allclose(reward(PROMPTS, REPLIES), hfkit.load_reward(str(reward_dir))(PROMPTS, REPLIES), atol=1e-6)
    folder = run_stage("sft", tmp_path / "on", model_name_or_path=str(merged("sft_dir")), max_steps=1)
    assert read_record(folder)["base"]["weights_sha256"] == weights_hash(merged("sft_dir"))
    assert read_record(folder)["lineage"][0]["stage"] == "merge"


@pytest.mark.parametrize("dtype", ["float32", "float16", "auto"])
def test_it_is_written_in_the_dtype_asked_for(sft_dir, tmp_path, dtype):
    weights = load_file(merge(str(sft_dir), tmp_path / "out", dtype) / "model.safetensors")
    expected = torch.float32 if dtype == "auto" else getattr(torch, dtype)  # the base's own is float32
    assert {tensor.dtype for tensor in weights.values()} == {expected}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(expected).removeprefix("torch.")


@pytest.mark.slow
@pytest.mark.parametrize("adapted", ["lm_head", "embed_tokens"])
def test_one_of_two_tied_matrices_is_merged_alone(run_stage, tmp_path, rows, adapted):
    from conftest import SHAPE

    base = run_stage("pretrain", tmp_path / "base", model_config={**SHAPE, "tie_word_embeddings": True}, max_steps=2)
    changes = {"lora_target_modules": ["q_proj", adapted], "learning_rate": 5e-2, "loss_type": "nll"}
    adapter = run_stage("sft", tmp_path / "sft", model_name_or_path=str(base), **changes)
    out = merge(str(adapter), tmp_path / "out", "float32")
    here, there = (logits_of(hfkit.load_policy(str(path))[0], rows) for path in (adapter, out))
    assert np.abs(here - there).max() < 1e-4
    assert np.abs(here - logits_of(hfkit.load_policy(str(base))[0], rows)).max() > 0.01


def test_an_adapter_from_the_hub_is_merged(hub, sft_dir, merged, tmp_path):
    name = hub("a" * 40, sft_dir)
    out = merge(name, tmp_path / "out")
    assert weights_hash(out) == weights_hash(merged("sft_dir"))
    parent = read_record(out)["lineage"][0]
    assert (parent["path"], parent["revision"], parent["stage"]) == (name, "a" * 40, "sft")
    assert parent["weights_sha256"] == weights_hash(sft_dir)


@pytest.mark.slow
def test_a_hub_base_is_named_in_the_card(run_stage, hub, base_dir, tmp_path):
    name = hub("b" * 40, base_dir)
    adapter = run_stage("sft", tmp_path / "sft", model_name_or_path=name, max_steps=1)
    out = merge(str(adapter), tmp_path / "out")
    card = ModelCard.load(out / "README.md").data
    assert (card.base_model, card.base_model_relation) == (name, "finetune")
    assert read_record(out)["base"]["revision"] == "b" * 40


def test_a_foreign_adapter_without_tokenizer_and_record_is_merged(sft_dir, copy, merged, tmp_path):
    folder = copy(sft_dir)
    for file in folder.iterdir():
        if not file.name.startswith("adapter"):
            file.unlink()
    out = merge(str(folder), tmp_path / "out")
    assert weights_hash(out) == weights_hash(merged("sft_dir"))
    assert "text-generation" in (out / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(out).chat_template


# What the change from a quantized base costs


def test_the_cost_of_4_bits_is_that_of_the_policy_on_the_rows_held_out(merged, qlora_dir, tokenizer):
    folder, trained = merged("qlora_dir"), read_record(qlora_dir)
    metrics, card = read_record(folder)["metrics"], (folder / "README.md").read_text()
    assert metrics["eval_rows"] == trained["data"]["test"]["kept"] == 8
    # the very loss that training ended with: the same adapter, the same 4 bits, the same rows
    assert metrics["eval_loss_adapter"] == pytest.approx(trained["metrics"]["eval_loss"], rel=1e-4)
    ratio = metrics["eval_perplexity_merged"] / metrics["eval_perplexity_adapter"]
    assert metrics["eval_perplexity_ratio"] == pytest.approx(ratio)
    assert 0.5 < ratio < 2
    assert ratio != 1
    assert "trained on its 4-bit base" in card
    assert f"{ratio:.4f} times the perplexity" in card
    # and the merged model's own, as it was written
    again = merge(str(qlora_dir), folder.parent / "qlora-again", "float32")
    assert read_record(again)["metrics"]["eval_loss_merged"] == pytest.approx(metrics["eval_loss_merged"], rel=0.01)


@pytest.mark.slow
def test_the_cost_of_4_bits_to_a_reward_model(merged, qreward_dir, held_out, tokenizer):
    folder, trained = merged("qreward_dir"), read_record(qreward_dir)
    metrics, card = read_record(folder)["metrics"], (folder / "README.md").read_text()
    assert metrics["eval_accuracy_adapter"] == trained["metrics"]["eval_accuracy"]
    assert 0 < metrics["eval_reward_difference"] < 0.1
    assert f"differ by {metrics['eval_reward_difference']:.4f} on average" in card


@pytest.mark.slow
def test_ppo_over_4_bits_is_measured_on_the_replies_held_out_of_its_sft_model(run_stage, tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = run_stage("ppo", tmp_path / "ppo", **QLORA, total_episodes=4)
    record = read_record(merge(str(folder), tmp_path / "out"))
    assert record["metrics"]["eval_rows"] == 8
    assert record["data"]["test"]["sources"][0]["path"].endswith("turns.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("why", ["no rows held out", "gone", "changed"])
def test_the_card_states_what_was_not_measured(run_stage, tmp_path, rows_file, why, capsys):
    pytest.importorskip("bitsandbytes")
    datasets = rows_file(ROWS["turns"])
    size = None if why == "no rows held out" else 8
    folder = run_stage("sft", tmp_path / "sft", **QLORA, datasets=datasets, test_split_size=size, max_steps=1)
    if why == "gone":
        Path(datasets[0]["path"]).unlink()
    if why == "changed":
        rows_file(ROWS["turns"][::-1])
    out = merge(str(folder), tmp_path / "out")
    assert (
        "was not measured, since no held-out rows were given: use `hfkit merge ADAPTER OUT --eval_dataset FILE`"
        in (out / "README.md").read_text()
    )
    assert read_record(out)["metrics"] == {}
    assert "no held-out rows to measure" in capsys.readouterr().err
    held_out = write_rows(tmp_path / "held-out.jsonl", ROWS["turns"] * 10)
    record = read_record(merge(str(folder), tmp_path / "measured", eval_dataset=held_out))
    assert record["metrics"]["eval_rows"] == 200  # of 320
    assert record["data"]["test"]["sources"][0]["rows"] == 320


@pytest.mark.slow
def test_adapter_and_merged_model_are_in_memory_one_after_the_other(qlora_dir, tmp_path):
    with ModelMeter(LlamaModel) as models:
        merge(str(qlora_dir), tmp_path / "out")
    assert models.most == 1


def test_any_adapter_is_measured_where_rows_are_named(sft_dir, data, tmp_path):
    out = merge(str(sft_dir), tmp_path / "out", eval_dataset=str(data / "turns.jsonl"))
    assert read_record(out)["metrics"]["eval_perplexity_ratio"] == pytest.approx(1, abs=0.01)
    assert "the adapter on its base has a loss of" in (out / "README.md").read_text()


def test_the_figures_of_a_comparison():
    figures, _ = comparison(1.0, 1.1, "it")
    assert figures["eval_perplexity_ratio"] == pytest.approx(math.exp(0.1))
    before, after = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.5, 2.0], [0.0, 1.0]])
    figures, _ = comparison(before, after, "it")
    assert (figures["eval_accuracy_adapter"], figures["eval_accuracy_merged"]) == (0.5, 1.0)
    assert figures["eval_reward_difference"] == pytest.approx(0.625)
    assert figures["eval_reward_difference_ratio"] == pytest.approx(0.625 / before.std().item())
