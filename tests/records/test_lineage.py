"""`hfkit lineage`: the tree from a run to its data and its first weights, and how they have changed since."""

import json
import shutil
from pathlib import Path

import pytest

from hfkit.cli import main
from hfkit.commands.merge import merge
from hfkit.records.lineage import lineage_of
from hfkit.records.record import read_record, weights_hash
from hfkit.records.training_order import training_order

IGNORED = shutil.ignore_patterns("checkpoint-*")


@pytest.fixture
def chain(tmp_path, base_dir, sft_dir, reward_dir, ppo_dir) -> Path:
    """Copies of pretrain, sft, reward, ppo in one folder, whose records name each other."""
    for folder in (base_dir, sft_dir, reward_dir, ppo_dir):
        copy = Path(shutil.copytree(folder, tmp_path / folder.name, ignore=IGNORED))
        record = (copy / "hfkit.json").read_text().replace(str(base_dir.parent), str(tmp_path))
        (copy / "hfkit.json").write_text(record)
    return tmp_path


def printed(capsys, path, *flags: str) -> str:
    capsys.readouterr()
    assert main(["lineage", str(path), *flags]) == 0
    return capsys.readouterr().out


def test_the_tree_of_a_run(chain, capsys, data):
    out = printed(capsys, chain / "ppo")
    hashes = {name: weights_hash(chain / name)[:12] for name in ("pretrain", "sft", "reward", "ppo")}
    prompts = read_record(chain / "ppo")["data"]["train"]["sources"][0]["sha256"][:12]
    lines = [line.lstrip("│├└─ \xa0") for line in out.splitlines()]
    base = f"on the base: {chain}/pretrain, weights {hashes['pretrain']}"
    assert lines[:4] == [
        f"ppo: {chain}/ppo, weights {hashes['ppo']}, seed 42",
        f"train: 4 of 4 rows kept, {data}/prompts.jsonl {prompts}",
        "test: 4 of 4 rows kept, held out from train",
        base,
    ]
    assert f"start: {chain}/sft (sft), weights {hashes['sft']}, seed 42" in lines
    assert f"start: {chain}/pretrain (pretrain), weights {hashes['pretrain']}, seed 42" in lines
    assert f"reward: {chain}/reward, weights {hashes['reward']}, seed 42" in lines
    assert f"start: {chain}/sft (sft), weights {hashes['sft']}, seed 42, as above" in lines
    assert lines.count(base) == 3  # of ppo, sft and reward; the sft model below the reward model is not expanded again
    assert "not there" not in out
    assert "changed" not in out


def test_paths_in_the_current_folder_are_short(chain, capsys, monkeypatch):
    monkeypatch.chdir(chain)
    out = printed(capsys, "ppo")
    assert out.startswith("ppo: ppo, weights ")
    assert "on the base: pretrain, weights " in out


def test_as_json_it_has_whole_hashes_and_all_that_the_tree_has(chain, capsys):
    node = json.loads(printed(capsys, chain / "ppo", "--json"))
    assert node == lineage_of(str(chain / "ppo"))
    assert (node["stage"], node["seed"], node["role"], node["now"]) == ("ppo", 42, None, None)
    assert node["base"]["weights_sha256"] == weights_hash(chain / "pretrain")
    sft, reward = node["parents"]
    assert (sft["role"], reward["role"], reward["parents"][0]["stage"]) == ("start", "reward", "sft")
    assert (
        sft["data"]["train"]["sources"][0]["sha256"]
        == read_record(chain / "sft")["data"]["train"]["sources"][0]["sha256"]
    )
    assert sft["parents"][0]["data"]["train"]["kept"] == 192
    assert sft["parents"][0]["parents"] == []


def test_a_parent_that_is_gone_is_marked_and_its_own_parents_are_still_reported(chain, capsys):
    shutil.rmtree(chain / "sft")
    out = printed(capsys, chain / "reward")
    assert f"start: {chain}/sft (sft), weights " in out
    assert next(line for line in out.splitlines() if "/sft" in line).endswith("no longer there")
    assert f"start: {chain}/pretrain (pretrain)" in out
    assert lineage_of(str(chain / "reward"))["parents"][0]["now"] == "no longer there"


def test_a_parent_with_other_weights_is_marked_and_its_new_record_is_not_its_old_one(chain, capsys):
    was = weights_hash(chain / "sft")[:12]
    shutil.copy(chain / "ppo" / "adapter_model.safetensors", chain / "sft" / "adapter_model.safetensors")
    (chain / "sft" / "hfkit.json").write_text(json.dumps({"stage": "sft", "status": "done", "seed": 99}))
    out = printed(capsys, chain / "ppo")
    now = weights_hash(chain / "ppo")[:12]
    assert f"its weights have changed since: was {was}, is {now}" in out
    assert "seed 99" not in out
    (chain / "sft" / "adapter_model.safetensors").unlink()
    assert "its weights are no longer there" in printed(capsys, chain / "ppo")


def test_a_base_that_changed_is_marked(chain, capsys):
    with (chain / "pretrain" / "model.safetensors").open("ab") as stream:
        stream.write(b" ")
    line = next(line for line in printed(capsys, chain / "sft").splitlines() if "on the base" in line)
    assert "its weights have changed since" in line


def test_a_merged_model_comes_from_its_adapter(sft_dir, base_dir, tmp_path, capsys):
    out = printed(capsys, merge(str(sft_dir), tmp_path / "merged"))
    assert out.startswith(f"merge: {tmp_path}/merged, weights ")
    assert f"adapter: {sft_dir} (sft), weights {weights_hash(sft_dir)[:12]}, seed 42" in out
    assert f"on the base: {base_dir}, weights {weights_hash(base_dir)[:12]}" in out


def test_a_run_on_the_hub(hub, sft_dir, capsys):
    name = hub("a" * 40, sft_dir)
    out = printed(capsys, name)
    assert out.startswith(f"sft: {name} at {'a' * 12}, weights {weights_hash(sft_dir)[:12]}, seed 42")
    assert printed(capsys, name, "--revision", "a" * 40) == out


@pytest.mark.slow
def test_a_base_from_the_hub_has_its_commit(hub, base_dir, run_stage, tmp_path, capsys):
    name = hub("b" * 40, base_dir)
    folder = run_stage("sft", tmp_path / "sft", model_name_or_path=name, max_steps=1)
    out = printed(capsys, folder)
    assert f"on the base: {name} at {'b' * 12}, weights {weights_hash(base_dir)[:12]}" in out
    assert f"start: {name} at {'b' * 12} (pretrain)" in out


def test_each_dataset_has_its_own_line(run_stage, data, tmp_path, capsys):
    files = [{"path": str(data / "docs.jsonl")}, {"path": str(data / "docs.jsonl"), "split": "train[:10]"}]
    out = printed(capsys, run_stage("tokenizer", tmp_path / "out", datasets=files))
    assert "train: 202 of 202 rows kept\n" in out
    assert f"{data}/docs.jsonl[train[:10]] " in out


def test_records_that_name_each_other_are_not_followed_in_a_circle(chain, capsys):
    for one, other in (("sft", "pretrain"), ("pretrain", "sft")):
        parent = {"role": "start", "path": str(chain / other), "revision": None, "weights_sha256": None, "stage": other}
        record = json.loads((chain / one / "hfkit.json").read_text())
        (chain / one / "hfkit.json").write_text(json.dumps(record | {"lineage": [parent | {"parents": []}]}))
    assert printed(capsys, chain / "sft").count(f"{chain}/sft") == 2


def test_a_record_cannot_send_escapes_to_the_terminal(chain, capsys):
    record = json.loads((chain / "ppo" / "hfkit.json").read_text())
    record["lineage"][0]["path"] = "/gone/\x1b[2J[bold]x"
    (chain / "ppo" / "hfkit.json").write_text(json.dumps(record))
    assert r"start: /gone/\x1b[2J[bold]x (sft), weights " in printed(capsys, chain / "ppo")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "has no record: expected the hfkit.json"),
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON mapping"),
        ('{"lineage": [{"role": "start"}]}', "is not a valid record"),
        ('{"data": [1]}', "is not a valid record"),
    ],
)
def test_a_folder_without_a_record_is_reported(tmp_path, capsys, record, message):
    if record is not None:
        (tmp_path / "hfkit.json").write_text(record)
    assert main(["lineage", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "message"), [("user/nowhere", "has no record"), ("/no/where", "is neither a folder nor a model")]
)
def test_a_path_without_a_record_is_reported(path, message, capsys):
    assert main(["lineage", path]) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_has_the_lineage_of_its_run_and_its_step(run_stage, tmp_path, sft_dir, base_dir, capsys):
    copy = shutil.copytree(sft_dir, tmp_path / "sft", symlinks=True)
    checkpoint = max(copy.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    step = int(checkpoint.name.split("-")[1])
    folder = run_stage("sft", tmp_path / "next", model_name_or_path=str(checkpoint), max_steps=1)
    start = read_record(folder)["lineage"][0]
    assert (start["path"], start["run"], start["step"]) == (str(checkpoint), str(copy), step)
    assert (start["stage"], start["weights_sha256"]) == ("sft", weights_hash(checkpoint))
    assert [parent["path"] for parent in start["parents"]] == [str(base_dir)]
    out = printed(capsys, folder)
    line = f"start: {checkpoint} (sft), weights {weights_hash(checkpoint)[:12]}, step {step}, seed 42"
    assert line in out and f"start: {base_dir} (pretrain)" in out
    assert printed(capsys, checkpoint).startswith(f"sft: {checkpoint}, weights ")
    assert training_order({folder: read_record(folder), copy: read_record(copy)}) == [copy, folder]
    for path in copy.glob("*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"step {step}" in printed(capsys, folder)


@pytest.mark.slow
def test_rows_that_the_run_of_a_checkpoint_held_out_are_found(tmp_path, sft_dir, data, capsys, run_stage):
    copy = shutil.copytree(sft_dir, tmp_path / "sft", symlinks=True)
    rows = {"datasets": [{"path": str(data / "turns.jsonl")}], "test_split_size": None, "max_steps": 1}
    run_stage("sft", tmp_path / "whole", model_name_or_path=str(copy), **rows)
    expected = [line for line in capsys.readouterr().err.splitlines() if "held out by sft" in line]
    checkpoint = next(copy.glob("checkpoint-*"))
    run_stage("sft", tmp_path / "next", model_name_or_path=str(checkpoint), **rows)
    found = [line for line in capsys.readouterr().err.splitlines() if "held out by sft" in line]
    assert len(expected) == 1 and found == [expected[0].replace(str(copy), str(checkpoint))]
