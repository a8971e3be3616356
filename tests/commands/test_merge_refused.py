"""What `hfkit merge` refuses, what it leaves as it is, and the command."""

import fcntl
import os
from pathlib import Path

import pytest
from merging import edit
from quick import slow
from safetensors.torch import load_file, save_file

import hfkit
from hfkit.cli import main
from hfkit.commands.merge import merge
from hfkit.core.errors import HfkitError
from hfkit.records.record import read_record, weights_hash


def refused(reported: str, *arguments, **options) -> None:
    """The merge raises an error with these words, and leaves nothing where its output would be."""
    with pytest.raises(HfkitError, match=reported):
        merge(*map(str, arguments), **options)


def test_a_path_without_an_adapter_is_refused(base_dir, tokenizer_dir, tmp_path):
    for path in (base_dir, tokenizer_dir):
        refused("is not an adapter: it has no adapter_config.json", path, tmp_path / "out")
    refused(
        "neither a folder nor a model in the Hub's cache, and HF_HUB_OFFLINE is set", "user/nowhere", tmp_path / "out"
    )
    refused("no such folder, and not a Hub id", "/nowhere/at/all", tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "is a PROMPT_TUNING adapter"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "for SEQ_2_SEQ_LM: only LORA for CAUSAL_LM or SEQ_CLS can be merged"),
        ({"base_model_name_or_path": "/gone/model"}, "the base of .*, '/gone/model', is missing: .* --base PATH"),
        ({"base_model_name_or_path": "gone/model"}, "the base of .*, 'gone/model', is missing"),
        ({"base_model_name_or_path": None}, "the base of .*, '', is missing"),
    ],
)
def test_an_adapter_of_another_kind_or_without_its_base_is_refused(sft_dir, copy, tmp_path, changes, reported):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", **changes)
    refused(reported, folder, tmp_path / "out")
    assert os.listdir(tmp_path) == [folder.name]


def test_a_base_that_moved_is_named(sft_dir, copy, base_dir, merged, tmp_path):
    folder, moved = copy(sft_dir), copy(base_dir)
    edit(folder / "adapter_config.json", base_model_name_or_path="/gone/model")
    out = merge(str(folder), tmp_path / "out", base=str(moved))
    assert weights_hash(out) == weights_hash(merged("sft_dir"))
    assert read_record(out)["base"]["path"] == str(moved)


@pytest.mark.parametrize("task", [None, slow("FEATURE_EXTRACTION")])
def test_an_adapter_without_a_task_and_a_tokenizer_is_a_language_model_s(sft_dir, copy, merged, tmp_path, task):
    folder = copy(sft_dir)
    edit(folder / "adapter_config.json", task_type=task)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    out = merge(str(folder), tmp_path / "out")
    assert weights_hash(out) == weights_hash(merged("sft_dir"))
    assert read_record(out)["task_type"] == "CAUSAL_LM"
    assert hfkit.load_policy(str(folder))[1].get_vocab() == hfkit.load_policy(str(sft_dir))[1].get_vocab()


def test_the_wrong_base_is_refused(sft_dir, base_dir, copy, tmp_path):
    other = copy(base_dir)
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    refused("was trained on the base", sft_dir, tmp_path / "out", base=str(other))
    assert os.listdir(tmp_path) == [other.name]


def test_quantized_weights_are_not_merged_into_but_the_model_behind_them(sft_dir, base_dir, copy, merged, tmp_path):
    folder, quantized = copy(sft_dir), copy(base_dir)
    edit(quantized / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with (quantized / "model.safetensors").open("ab") as stream:
        stream.write(b" ")  # other weights than the full-precision ones
    edit(folder / "adapter_config.json", base_model_name_or_path=str(quantized))
    trained_on = {"path": str(quantized), "revision": None, "weights_sha256": weights_hash(quantized)}
    edit(folder / "hfkit.json", base={**trained_on, "quantization": "bitsandbytes"})
    refused(r"stored quantized \(bitsandbytes\).*--base PATH", folder, tmp_path / "out")
    out = merge(str(folder), tmp_path / "out", base=str(base_dir))
    assert weights_hash(out) == weights_hash(merged("sft_dir"))


def test_a_classifier_of_two_labels_is_refused(reward_dir, copy, tmp_path):
    folder = copy(reward_dir)
    weights = load_file(folder / "adapter_model.safetensors")
    head = next(name for name in weights if name.endswith("score.weight"))
    save_file(weights | {head: weights[head].repeat(2, 1)}, folder / "adapter_model.safetensors", {"format": "pt"})
    refused("has 2 labels; a reward model has one", folder, tmp_path / "out")
    with pytest.raises(HfkitError, match="has 2 labels"):
        hfkit.load_reward(str(folder))


def test_a_run_that_is_not_done_is_refused(sft_dir, copy, tmp_path):
    folder = copy(sft_dir)
    edit(folder / "hfkit.json", status="running")
    refused(r"a run that is not done \(running\)", folder, tmp_path / "out")


@pytest.mark.parametrize("way", ["folder", "file", "link"])
def test_what_is_in_the_way_is_left_as_it_is(sft_dir, tmp_path, way):
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    if way == "folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif way == "file":
        out.write_text("mine")
    else:
        out.symlink_to(mine)
    refused("choose another folder", sft_dir, out)
    assert sorted(os.listdir(tmp_path)) == ["mine", "out"]
    assert way != "folder" or (out / "mine").read_text() == "mine"


@pytest.fixture(scope="module")
def merged_sft(merged) -> Path:
    """A merged model; made before `no_weights` forbids it, because its scope is wider."""
    return merged("sft_dir")


def test_a_merge_that_is_done_is_left_as_it_is(sft_dir, merged_sft, copy, tmp_path, no_weights, capsys):
    out = copy(merged_sft)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert merge(str(copy(sft_dir)), out) == out
    assert capsys.readouterr().out == f"merge: already done in {out}\n"
    refused("is not empty: choose another folder", sft_dir, out, dtype="float32")
    edit(tmp_path / "copy-sft" / "adapter_config.json", lora_alpha=3)
    refused("is not empty: choose another folder", tmp_path / "copy-sft", out)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    (out / "model.safetensors").unlink()
    refused("is not empty: choose another folder", sft_dir, out)


def test_an_empty_folder_and_what_a_killed_merge_left_are_taken_over(sft_dir, merged, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.merging" / "out").mkdir(parents=True)
    (tmp_path / ".out.merging" / "out" / "model-00007.safetensors").write_bytes(b"half")
    out = merge(str(sft_dir), tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert {path.name for path in out.iterdir()} == {path.name for path in merged("sft_dir").iterdir()}


def test_of_a_merge_that_fails_nothing_is_left(sft_dir, base_dir, copy, tmp_path):
    folder, large = copy(sft_dir), copy(base_dir)
    weights = load_file(large / "model.safetensors")
    save_file({name: tensor * 1e7 for name, tensor in weights.items()}, large / "model.safetensors", {"format": "pt"})
    (folder / "hfkit.json").unlink()
    refused(
        "not finite in float16: choose another dtype", folder, tmp_path / "o" / "out", dtype="float16", base=str(large)
    )
    assert os.listdir(tmp_path / "o") == []


def test_a_second_merge_into_the_same_folder_is_kept_out(sft_dir, tmp_path):
    (tmp_path / ".out.merging").mkdir()
    handle = os.open(tmp_path / ".out.merging", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    refused("another process is merging into", sft_dir, tmp_path / "out")
    os.close(handle)


# The command


@pytest.mark.parametrize(
    ("flags", "status", "reported"),
    [
        (["--dtype", "int3"], 2, "dtype: 'int3' -> expected one of: auto, float32, bfloat16, float16"),
        (["--eval_dataset", "nowhere.jsonl"], 1, "nowhere.jsonl"),
        (["--base", "/gone/model"], 1, "/gone/model: no such folder"),
    ],
)
def test_the_command_tells_its_errors_in_words(sft_dir, tmp_path, capsys, flags, status, reported):
    assert main(["merge", str(sft_dir), str(tmp_path / "out"), *flags]) == status
    assert reported in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_the_command_merges(sft_dir, merged, tmp_path, capsys):
    assert main(["merge", str(sft_dir), str(tmp_path / "out"), "--dtype", "float32"]) == 0
    assert f"in {tmp_path / 'out'}\n" in capsys.readouterr().out
    assert weights_hash(tmp_path / "out") == weights_hash(merged("sft_dir", "float32"))
