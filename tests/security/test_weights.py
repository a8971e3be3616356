"""Weights that attack: each file is a safetensors file of the model's own folder, and lies about nothing."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hostile_models import change_json, inputs
from safetensors.torch import load_file, save_file

from hfkit.models.loading import load_policy
from hfkit.training.checkpoints import checkpoint_fault, last_complete_checkpoint

WEIGHTS = pytest.mark.hostile("weights")
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def write_index(model: Path, name: str) -> None:
    """Let the index of a model name one file for all weights."""
    names = load_file(model / FILE)
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, name)}))


def pickled_shard(model, canary):
    write_index(model, "pytorch_model.bin")
    torch.save({"model.norm.weight": Touch(canary)}, model / "pytorch_model.bin")
    (model / FILE).rename(model / "decoy.safetensors")


def shard_of_tensors(model, canary):
    """Pickled tensors alone: no code runs, but `allow_pickle` was not given."""
    write_index(model, "pytorch_model.bin")
    torch.save(load_file(model / FILE), model / "pytorch_model.bin")
    (model / FILE).rename(model / "decoy.safetensors")


def moved_out(model: Path) -> Path:
    """The weights, in a folder next to the model's."""
    outside = model.parent / "outside"
    outside.mkdir()
    (model / "decoy.safetensors").write_bytes((model / FILE).read_bytes())
    return Path(shutil.move(model / FILE, outside / FILE))


def index_with(name):
    def make(model, canary):
        write_index(model, name.format(outside=model.parent / "outside"))
        moved_out(model)

    return make


def index_text(text):
    def make(model, canary):
        (model / INDEX).write_text(text)
        (model / FILE).rename(model / "decoy.safetensors")

    return make


def linked_out(model, canary):
    (model / FILE).symlink_to(moved_out(model))


def linked_shard(model, canary):
    write_index(model, "model-00001-of-00001.safetensors")
    (model / "model-00001-of-00001.safetensors").symlink_to(moved_out(model))


def linked_to_a_device(model, canary):
    (model / FILE).unlink()
    (model / FILE).symlink_to("/dev/zero")


def pickle_alone(model, canary):
    (model / FILE).unlink()
    torch.save(Touch(canary), model / "pytorch_model.bin")


def pickle_by_another_name(model, canary):
    (model / FILE).write_bytes(pickle.dumps(Touch(canary)))


def header(text: bytes, length: int | None = None, data: bytes = b""):
    def make(model, canary):
        (model / FILE).write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)

    return make


def tensor(**changes) -> bytes:
    one = {"dtype": "F32", "shape": [32], "data_offsets": [0, 128], **changes}
    return json.dumps({"model.norm.weight": one}).encode()


def two(first: list, second: list) -> bytes:
    one = {"dtype": "F32", "shape": [32]}
    return json.dumps({"a": {**one, "data_offsets": first}, "b": {**one, "data_offsets": second}}).encode()


def header_of_spaces(model, canary):
    """1 GB of spaces, in a file with holes."""
    with (model / FILE).open("wb") as stream:
        stream.write(struct.pack("<Q", 1 << 30) + b"{}")
        stream.truncate(8 + (1 << 30))


def not_finite(model, canary):
    save_file({name: weight * float("nan") for name, weight in load_file(model / FILE).items()}, model / FILE)


def other_shapes(model, canary):
    save_file({name: torch.cat([weight, weight]) for name, weight in load_file(model / FILE).items()}, model / FILE)


MODELS = {
    "a shard that is a pickle": (pickled_shard, "names 'pytorch_model.bin'"),
    "a shard of pickled tensors": (shard_of_tensors, "names 'pytorch_model.bin'"),
    "a shard by an absolute path": (index_with("{outside}/model.safetensors"), "names '/"),
    "a shard by ..": (index_with("../outside/model.safetensors"), "names '../outside/model.safetensors'"),
    "a shard by a backslash": (index_with("..\\outside\\model.safetensors"), "a shard is a .safetensors file"),
    "a shard that is missing": (index_with("model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors"),
    "an index that is a list": (index_text("[]"), "is not an index of weights"),
    "an index without a map": (index_text("{}"), "is not an index of weights"),
    "an index of numbers": (index_text('{"weight_map": {"a": 7}}'), "names '7'"),
    "an index that is nested": (index_text('{"weight_map":' * 9999), "is not an index of weights"),
    "weights that are a link": (linked_out, "links to a path outside its folder"),
    "a shard that is a link": (linked_shard, "links to a path outside its folder"),
    "weights that are a device": (linked_to_a_device, "model"),
    "a pickle alone": (pickle_alone, "its weights are pickled"),
    "a pickle by another name": (pickle_by_another_name, "cannot load"),
    "an empty file": (header(b"", 0), "cannot load"),
    "a header of 2^60 bytes": (header(b"{}", 1 << 60), "cannot load"),
    "a header of 2^64 - 1 bytes": (header(b"{}", (1 << 64) - 1), "cannot load"),
    "a header of 1 GB of spaces": (header_of_spaces, "cannot load"),
    "a header that is no JSON": (header(b"{]"), "cannot load"),
    "a header that is nested": (header(b'{"a":' * 5000), "cannot load"),
    "overlapping tensors": (header(two([0, 128], [64, 192]), data=bytes(192)), "cannot load"),
    "tensors with a gap": (header(two([0, 128], [256, 384]), data=bytes(384)), "cannot load"),
    "offsets beyond the file": (header(tensor(data_offsets=[0, 1 << 40]), data=bytes(128)), "cannot load"),
    "offsets in reverse": (header(tensor(data_offsets=[128, 0]), data=bytes(128)), "cannot load"),
    "an unknown dtype": (header(tensor(dtype="F1000"), data=bytes(128)), "cannot load"),
    "a dtype that torch lacks": (header(tensor(dtype="F4", shape=[256]), data=bytes(128)), "model"),
    "a shape that overflows": (header(tensor(shape=[1 << 40, 1 << 40]), data=bytes(128)), "cannot load"),
    "a negative shape": (header(tensor(shape=[-32]), data=bytes(128)), "cannot load"),
    "a shape of zero": (header(tensor(shape=[0, 1 << 62], data_offsets=[0, 0])), "model"),
    "weights that are not finite": (not_finite, "not finite"),
    "weights of other shapes": (other_shapes, "whose shapes differ"),
}


@WEIGHTS
@pytest.mark.parametrize(("harm", "sentence"), inputs(MODELS))
def test_hostile_weights_are_not_loaded(attack, model, sft, canary, harm, sentence):
    harm(model, canary)
    ran = attack(*sft(model))
    assert ran.status in (1, 2) and sentence in ran.output, ran.output


HARMS = [pickled_shard, index_with("../outside/model.safetensors"), linked_out]
VERBS = ("chat", "evaluate", "arena", "export", "merge", "reward", "push")


@pytest.mark.slow
@WEIGHTS
@pytest.mark.parametrize(("verb", "harm"), [(verb, HARMS[index % 3]) for index, verb in enumerate(VERBS)], ids=VERBS)
def test_each_verb_checks_the_weights(attack, model, plain_adapter, tmp_path, canary, verb, harm):
    harm(model, canary)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "response": "b", "chosen": "b", "rejected": "c"}\n' * 4)
    arguments = {
        "chat": [model, "--prompt", "a"],
        "evaluate": [model, "--datasets", rows],
        "arena": [model, f"b={model}", "--prompts", rows, "--judge", "human"],
        "export": [model, tmp_path / "out", "--format", "vllm"],
        "merge": [plain_adapter, tmp_path / "out", "--base", model],
        "reward": ["--model_name_or_path", model, "--datasets", rows, "--output_dir", tmp_path / "run"],
        "push": [model, "me/model"],
    }
    ran = attack(verb, *arguments[verb])
    assert ran.status in (1, 2) and not (tmp_path / "out").exists(), ran.output


@WEIGHTS
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_no_file_of_a_model_is_a_link_out_of_its_folder(attack, model, sft, secret, name):
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    ran = attack(*sft(model))
    assert ran.status in (1, 2) and f"{name} links to a path outside its folder" in ran.output, ran.output


def test_the_links_of_the_hubs_cache_are_followed(model):
    snapshot = model.parent / "models--a--b" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    for number, file in enumerate(model.iterdir()):
        blob = snapshot.parents[1] / "blobs" / f"{number:064x}"
        shutil.move(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    assert load_policy(str(snapshot))[0].num_parameters() > 0


def adapter_pickle(adapter, canary):
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(Touch(canary), adapter / "adapter_model.bin")


def adapter_linked(adapter, canary):
    moved = shutil.move(adapter / "adapter_model.safetensors", adapter.parent / "outside.safetensors")
    (adapter / "adapter_model.safetensors").symlink_to(moved)


def adapter_header(adapter, canary):
    (adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def adapter_of_others(adapter, canary):
    save_file({"base_model.model.model.norm.weight": torch.ones(32) * 7}, adapter / "adapter_model.safetensors")


ADAPTERS = {
    "a pickle": (adapter_pickle, "has no adapter_model.safetensors"),
    "a link": (adapter_linked, "links to a path outside its folder"),
    "a header of 2^60 bytes": (adapter_header, "adapter_model.safetensors"),
    "weights of the base": (adapter_of_others, "does not fit its base"),
}


@WEIGHTS
@pytest.mark.parametrize("verb", ["sft", *(pytest.param(one, marks=pytest.mark.slow) for one in ("chat", "merge"))])
@pytest.mark.parametrize(("harm", "sentence"), inputs(ADAPTERS, every=2))
def test_hostile_weights_of_adapters_are_not_loaded(attack, adapter, sft, tmp_path, canary, verb, harm, sentence):
    harm(adapter, canary)
    out = [tmp_path / "out"]
    more = {"chat": ["--prompt", "a"], "merge": out, "export": [*out, "--format", "vllm"]}
    ran = attack(*(sft(adapter) if verb == "sft" else [verb, adapter, *more[verb]]))
    assert ran.status in (1, 2) and sentence in ran.output, ran.output


def pickled(name):
    def harm(checkpoint):
        torch.save(Touch(checkpoint.parent.parent / "code-has-run"), checkpoint / name)

    return harm


def with_state(**changes):
    return lambda checkpoint: change_json(checkpoint / "trainer_state.json", **changes)


def best_outside(checkpoint):
    change_json(checkpoint / "trainer_state.json", best_model_checkpoint="/etc", best_metric=0.0)


def pickled_adapter(checkpoint):
    (checkpoint / "adapter_model.safetensors").unlink()
    torch.save(Touch(checkpoint.parent.parent / "code-has-run"), checkpoint / "adapter_model.bin")


def checkpoint_linked(checkpoint):
    moved = shutil.move(checkpoint / "adapter_model.safetensors", checkpoint.parent.parent / "elsewhere.safetensors")
    (checkpoint / "adapter_model.safetensors").symlink_to(moved)


def further_adapter(checkpoint):
    shutil.copytree(checkpoint, checkpoint / "more")


CHECKPOINTS = {
    "optimizer.pt with code": (pickled("optimizer.pt"), "optimizer.pt holds more than tensors"),
    "scheduler.pt with code": (pickled("scheduler.pt"), "scheduler.pt holds more than tensors"),
    "rng_state.pth with code": (pickled("rng_state.pth"), "rng_state.pth holds more than tensors"),
    "scaler.pt with code": (pickled("scaler.pt"), "scaler.pt holds more than tensors"),
    "a pickled adapter": (pickled_adapter, "adapter_model.bin is pickled"),
    "an additional adapter": (further_adapter, "more is an additional adapter"),
    "weights that are a link": (checkpoint_linked, "links to a path outside its folder"),
    "a state with other keys": (with_state(evil=1), "trainer_state.json: unknown keys: evil"),
    "a negative step": (with_state(global_step=-1), "trainer_state.json: global_step"),
    "a textual step": (with_state(global_step="1"), "trainer_state.json: global_step"),
    "a step of 10^30": (with_state(global_step=10**30), "trainer_state.json: global_step"),
    "logs that are a text": (with_state(log_history="abc"), "trainer_state.json: log_history"),
    "logs without steps": (with_state(log_history=[{"loss": 1}]), "trainer_state.json: log_history"),
    "a best checkpoint that is a number": (with_state(best_model_checkpoint=7), "best_model_checkpoint is not a path"),
    "callbacks that are a list": (with_state(stateful_callbacks=[1]), "stateful_callbacks is not a mapping"),
}


@WEIGHTS
@pytest.mark.parametrize(("harm", "sentence"), inputs(CHECKPOINTS, every=1))
def test_a_hostile_checkpoint_is_skipped(sft_dir, tmp_path, canary, harm, sentence):
    run = tmp_path / "run"
    for name in ("checkpoint-3", "checkpoint-6"):
        shutil.copytree(sft_dir / name, run / name)
    harm(run / "checkpoint-6")
    assert sentence in checkpoint_fault(run / "checkpoint-6")
    assert last_complete_checkpoint(run) == run / "checkpoint-3"
    assert not canary.exists()


@pytest.mark.slow
@WEIGHTS
@pytest.mark.parametrize("harm", [pytest.param(pickled("training_args.bin"), id="training_args.bin"), best_outside])
def test_what_resuming_does_not_read_harms_nothing(run_stage, sft_dir, tmp_path, canary, harm):
    run = Path(shutil.copytree(sft_dir, tmp_path / "run"))
    shutil.rmtree(run / "checkpoint-6")
    change_json(run / "hfkit.json", status="failed")
    harm(run / "checkpoint-3")
    run_stage("sft", run, resume_from_checkpoint=True)
    assert json.loads((run / "hfkit.json").read_text())["resumed_from"] == "checkpoint-3"
    assert not canary.exists()
