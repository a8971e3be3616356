"""An adapter's record names the base that it was trained on, and any other base is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import TaskType
from quick import slow
from safetensors.torch import load_file, save_file

import hfkit
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.models.loading import load_trainable
from hfkit.records.base import base_fault
from hfkit.records.record import read_record, weights_hash
from hfkit.records.source import Source, folder_of

IGNORED = shutil.ignore_patterns("checkpoint-*")
IDS = torch.arange(5, 25).unsqueeze(0)


@pytest.fixture
def other_base(base_dir, tmp_path) -> Path:
    """The base with one weight changed."""
    folder = Path(shutil.copytree(base_dir, tmp_path / "other-base", ignore=IGNORED))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def astray(tmp_path, other_base):
    """astray(adapter) -> a copy of it that names `other_base` as its base."""

    def make(adapter: Path) -> Path:
        folder = Path(shutil.copytree(adapter, tmp_path / f"astray-{adapter.name}", ignore=IGNORED))
        edit(folder / "adapter_config.json", base_model_name_or_path=str(other_base))
        return folder

    return make


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("name", ["sft_dir", "reward_dir", "ppo_dir"])
def test_the_record_of_an_adapter_names_the_untouched_base(name, request, base_dir):
    base = read_record(request.getfixturevalue(name))["base"]
    assert base == {"path": str(base_dir), "revision": None, "weights_sha256": weights_hash(base_dir)}
    assert "base" not in read_record(base_dir)


@pytest.mark.parametrize("name", ["sft_dir", "reward_dir", "ppo_dir"])
def test_an_adapter_on_another_base_is_refused_with_both_names(name, request, base_dir, other_base, astray):
    folder = astray(request.getfixturevalue(name))
    load = hfkit.load_reward if name == "reward_dir" else hfkit.load_policy
    with pytest.raises(HfkitError) as error:
        load(str(folder))
    for part in (folder, base_dir, weights_hash(base_dir)[:12], other_base, weights_hash(other_base)[:12], "--base"):
        assert str(part) in str(error.value)
    with pytest.raises(HfkitError, match="but its base is now"):
        load(str(request.getfixturevalue(name)), base=str(other_base))


@pytest.mark.parametrize("use_peft", [True, None])
def test_no_stage_starts_from_an_adapter_on_another_base(config_of, sft_dir, astray, tmp_path, use_peft):
    config = config_of("reward", tmp_path / "out", use_peft=use_peft)
    config.model_name_or_path = str(astray(sft_dir))  # after the config was checked
    with pytest.raises(HfkitError, match="was trained on the base"):
        load_trainable(config, TaskType.SEQ_CLS)


@pytest.mark.parametrize(
    ("stage", "key", "name"),
    [
        ("sft", "model_name_or_path", "sft_dir"),
        ("ppo", "model_name_or_path", "sft_dir"),
        ("ppo", "reward_model_path", "reward_dir"),
    ],
)
def test_another_base_is_reported_before_anything_is_loaded(config_of, tmp_path, request, astray, stage, key, name):
    folder = astray(request.getfixturevalue(name))
    with pytest.raises(ConfigError) as error:
        config_of(stage, tmp_path / "out", **{key: str(folder)}, lora_r=None)
    assert [problem.key for problem in error.value.problems] == [key]
    assert "was trained on the base" in str(error.value)


def test_another_base_is_reported_for_an_adapter_on_the_hub_too(config_of, tmp_path, astray, hub, sft_dir):
    name = hub("d" * 40, astray(sft_dir))
    with pytest.raises(ConfigError, match=f"{name} was trained on the base"):
        config_of("sft", tmp_path / "out", model_name_or_path=name, lora_r=None)


def test_the_same_base_elsewhere_is_taken(sft_dir, reward_dir, base_dir, tmp_path):
    moved = str(shutil.copytree(base_dir, tmp_path / "moved", ignore=IGNORED))
    (tmp_path / "moved" / "consolidated.safetensors").write_bytes(b"what Transformers does not load")
    here, _ = hfkit.load_policy(str(sft_dir), base=moved)
    assert torch.equal(logits(here), logits(hfkit.load_policy(str(sft_dir))[0]))
    assert hfkit.load_reward(str(reward_dir), base=moved)(["Who?"], ["Ann."]).shape == (1,)


def test_a_base_that_is_gone_is_found_again(sft_dir, base_dir, astray, other_base):
    folder = astray(sft_dir)
    shutil.rmtree(other_base)
    with pytest.raises(HfkitError, match=f"{other_base} is neither a folder nor a model on the Hub"):
        hfkit.load_policy(str(folder))
    assert torch.equal(
        logits(hfkit.load_policy(str(folder), base=str(base_dir))[0]), logits(hfkit.load_policy(str(sft_dir))[0])
    )


@pytest.mark.parametrize("record", [None, slow("{"), slow('{"base": null}'), slow('{"base": {"path": "x"}}')])
def test_an_adapter_without_a_record_of_its_base_is_checked_by_its_shapes(astray, sft_dir, record):
    folder = astray(sft_dir)
    (folder / "hfkit.json").unlink()
    if record is not None:
        (folder / "hfkit.json").write_text(record)
    assert logits(hfkit.load_policy(str(folder))[0]).isfinite().all()


@pytest.mark.parametrize(
    ("path", "base", "message"),
    [
        ("base_dir", "base_dir", "is a full model and has no base"),
        ("sft_dir", "reward_dir", "is an adapter: name the full model"),
        ("sft_dir", None, "is neither a folder nor a model on the Hub"),
    ],
)
def test_a_base_that_cannot_be_one_is_refused(request, path, base, message):
    base = str(request.getfixturevalue(base)) if base else "/gone/model"
    with pytest.raises(HfkitError, match=message):
        hfkit.load_policy(str(request.getfixturevalue(path)), base=base)


def test_a_base_from_the_hub_is_named_and_opened_by_its_commit(run_stage, hub, tmp_path, base_dir, other_base):
    first, second = "a" * 40, "b" * 40
    name = hub(first, base_dir)
    folder = run_stage("sft", tmp_path / "out", model_name_or_path=name, max_steps=1)
    record = read_record(folder)
    assert record["base"] == {"path": name, "revision": first, "weights_sha256": weights_hash(base_dir)}
    assert (record["lineage"][0]["revision"], record["lineage"][0]["weights_sha256"]) == (
        first,
        weights_hash(base_dir),
    )
    before = logits(hfkit.load_policy(str(folder))[0])
    hub(second, other_base)  # the main branch now has another commit
    assert torch.equal(logits(hfkit.load_policy(str(folder))[0]), before)
    with pytest.raises(HfkitError) as error:
        hfkit.load_policy(str(folder), base=name)
    assert f"{name} at {first[:12]}" in str(error.value)
    assert f"{name} at {second[:12]}" in str(error.value)


def test_an_incomplete_snapshot_has_no_hash_of_its_weights(hub, sft_dir, base_dir):
    name = hub("c" * 40, base_dir)
    snapshot = folder_of(name)
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    assert base_fault(Source.of(str(sft_dir), base=name)) is None


def test_files_of_the_hubs_cache_have_their_hash_for_a_name(tmp_path):
    digest = "d" * 64
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / digest).write_bytes(b"weights")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / digest)
    assert weights_hash(tmp_path / "snapshot") == digest


def test_the_hash_follows_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    hashes = set()
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, ns=(0, len(hashes)))
        hashes.add(weights_hash(tmp_path))
    assert len(hashes) == 2
