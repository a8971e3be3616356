"""The record of a run: written atomically, without names and paths of the machine, with the lineage of weights."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hfkit.core.files import write_json
from hfkit.records.record import known_record, lineage_entry, read_record, settings_of, weights_hash


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "hfkit.json"
    write_json(path, {"status": "running"})
    with pytest.raises(TypeError):
        write_json(path, {"status": object()})
    assert json.loads(path.read_text()) == {"status": "running"}
    assert os.listdir(tmp_path) == ["hfkit.json"]


@pytest.mark.parametrize("content", [None, "", '{"status": "runn'])
def test_a_folder_without_a_readable_record_has_none(tmp_path, content):
    if content is not None:
        (tmp_path / "hfkit.json").write_text(content)
    assert read_record(tmp_path) is None


def test_one_file_of_weights_has_the_hash_that_the_hub_shows(tmp_path):
    assert weights_hash(tmp_path) is None
    assert weights_hash("someone/a-model") is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert weights_hash(tmp_path) == hashlib.sha256(b"weights").hexdigest()


def test_several_files_of_weights_have_one_hash_once_all_are_there(tmp_path):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / shards[0]).write_bytes(b"weights")
    assert weights_hash(tmp_path) is None
    (tmp_path / shards[1]).write_bytes(b"weights")
    whole = weights_hash(tmp_path)
    assert whole not in (None, hashlib.sha256(b"weights").hexdigest())
    (tmp_path / "consolidated.safetensors").write_bytes(b"what Transformers does not load")
    assert weights_hash(tmp_path) == whole


def test_the_recorded_settings_are_those_that_change_the_result(config_of, tmp_path):
    here = settings_of(config_of("pretrain", tmp_path / "here"))
    there = settings_of(config_of("pretrain", tmp_path / "there", resume_from_checkpoint=True))
    assert here == there
    assert settings_of(config_of("pretrain", tmp_path, adam_beta2=0.95))["adam_beta2"] == 0.95


def test_the_record_of_a_stage_describes_it(reward_dir, sft_dir, base_dir, data):
    record = read_record(reward_dir)
    assert (record["stage"], record["status"], record["seed"], record["steps"]) == ("reward", "done", 42, 6)
    assert record["config"]["max_steps"] == 6
    assert all(record["environment"]["versions"][name] for name in ("torch", "transformers", "trl", "peft"))
    assert (record["environment"]["device"], record["environment"]["processes"]) == ("cpu", 1)
    assert all(record[key] > 0 for key in ("tokens", "wall_seconds", "tokens_per_second", "peak_memory_bytes"))
    assert record["metrics"].keys() >= {"train_loss", "eval_accuracy", "eval_margin"}
    split = record["data"]["train"]
    assert (split["rows"], split["kept"], split["dropped"]) == (24, 24, {})
    assert split["sources"][0]["path"] == str(data / "pairs.jsonl")
    parent = record["lineage"][0]
    assert (parent["role"], parent["path"]) == ("start", str(sft_dir))
    assert parent["weights_sha256"] == weights_hash(sft_dir)
    assert parent["parents"][0]["weights_sha256"] == weights_hash(base_dir)


def test_a_hub_model_in_the_lineage_has_its_revision():
    parent = lineage_entry("start", "someone/a-model", "v1")
    assert (parent["path"], parent["revision"], parent["weights_sha256"]) == ("someone/a-model", "v1", None)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells a process's own peak")
def test_the_peak_is_not_that_of_the_process_before():
    child = "from hfkit.records.environment import peak_memory_bytes; print(peak_memory_bytes())"
    parent = f"import subprocess, sys; held = b'.' * 2_000_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
    ran = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 10_000_000 < int(ran.stdout) < 1_500_000_000


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": [3]},
        {"config": [1]},
        {"data": [1]},
        {"data": {"train": 1}},
        {"lineage": [1]},
        {"lineage": {"a": 1}},
        {"base": "x"},
    ],
    ids=str,
)
def test_a_record_with_wrong_types_is_ignored(sft_dir, tmp_path, changes):
    record = json.loads((sft_dir / "hfkit.json").read_text())
    write_json(tmp_path / "hfkit.json", record)
    assert read_record(tmp_path) == record
    write_json(tmp_path / "hfkit.json", record | changes)
    assert read_record(tmp_path) is None


def test_a_record_that_may_be_there_but_cannot_be_read_is_warned_of(tmp_path, capsys):
    assert known_record(str(tmp_path)) is None
    assert capsys.readouterr().err == ""
    (tmp_path / "hfkit.json").write_text("[]")
    assert known_record(str(tmp_path)) is None
    assert f"{tmp_path}: its hfkit.json is not a valid record" in capsys.readouterr().err
    assert known_record("someone/a-model") is None  # tests have no network
    assert "someone/a-model: the Hub cannot be reached" in capsys.readouterr().err
