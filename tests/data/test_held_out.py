"""Held-out rows: whole prompts, by the seed alone, never trained on, by no stage."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from quick import slow

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import PPOConfig, RewardConfig, SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.held_out import HASHES, overlaps, read_hashes, row_key, split_off
from hfkit.data.splits import load_splits
from hfkit.records.record import read_record
from hfkit.rlhf.ptx import load_ptx

CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
WANTED = ["messages", "prompt", "response", "chosen", "rejected", "text"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi?", "response": "Hello."},
        {"prompt": CHAT[:1], "response": None},
        {"messages": CHAT},
        {"messages": [turn | {"name": None} for turn in CHAT]},
        {"messages": [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in CHAT]},
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."},
        {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "No."}]},
        {"chosen": "Hi? Hello.", "rejected": "Hi? No."},
        {"text": "Hi?"},
    ],
    ids=lambda row: "+".join(row),
)
def test_a_prompt_is_known_in_every_form(row):
    assert row_key(row) == row_key({"prompt": "Hi?"}) != row_key({"prompt": "Hi"})


def test_a_transcript_is_known_as_its_turns():
    asked = "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant:"
    turns = [*CHAT, {"role": "user", "content": "Who?"}]
    pair = {"chosen": f"{asked} It is Ann.", "rejected": f"{asked} It is no one."}
    assert row_key(pair) == row_key({"prompt": asked}) == row_key({"prompt": turns}) != row_key({"prompt": CHAT})


@pytest.mark.parametrize(
    "row",
    [
        *({"prompt": ""}, {"messages": []}, {"text": None}, {"messages": ["x"]}, {}),
        *({"prompt": None, "chosen": "Yes.", "rejected": "Yes, I do"}, {"chosen": "Yes.", "rejected": "No."}),
        *({"chosen": None, "rejected": "No."}, {"prompt": "\n\nAssistant:"}),
    ],
)
def test_a_row_without_a_prompt_has_no_key(row):
    assert row_key(row) == {"key": 0}


@pytest.mark.parametrize("size", [10, 0.25, 1])
def test_prompts_are_held_out_whole(size):
    keys = np.repeat(np.arange(1, 41), np.arange(1, 41) % 5 + 1)
    train, test = split_off(keys, size, seed=0)
    assert sorted([*train, *test]) == [*range(len(keys))]
    assert not set(keys[train]) & set(keys[test])
    wanted = size if size >= 1 else size * len(keys)
    assert wanted <= len(test) < wanted + 5
    again = split_off(keys, size, seed=0)
    assert [part.tolist() for part in again] == [train.tolist(), test.tolist()]
    assert split_off(keys, size, seed=1)[1].tolist() != test.tolist()


def test_rows_without_a_prompt_are_held_out_one_by_one():
    train, test = split_off(np.zeros(10, dtype=np.int64), 3, seed=0)
    assert (len(train), len(test)) == (7, 3)


def test_one_prompt_cannot_be_split():
    with pytest.raises(HfkitError, match=r"no training row of 9 rows \(1 prompts, never split\)"):
        split_off(np.ones(9, dtype=np.int64), 3, seed=0)


def turns(count: int, start: int = 0) -> list[dict]:
    return [{"prompt": f"Who is {n}?", "response": f"It is {n}."} for n in range(start, start + count)]


def test_rows_held_out_by_file_are_removed_from_training(rows_file):
    data, held_out = rows_file(turns(40), "a.jsonl"), rows_file(turns(6, 38), "b.jsonl")
    entries = {"datasets": data, "eval_datasets": held_out}
    config = SFTConfig(
        output_dir="unused", **{key: [DatasetEntry(**one) for one in given] for key, given in entries.items()}
    )
    train, test, stats = load_splits(config, WANTED)
    assert (len(train), len(test)) == (38, 6)
    assert not set(train["prompt"]) & set(test["prompt"])
    assert stats["train"].dropped == {"also held out": 2}
    assert stats["train"].rows == 40


def test_pairs_without_a_prompt_column_are_held_out_by_what_both_replies_begin_with(rows_file):
    asked = [f"\n\nHuman: Who is {n}?\n\nAssistant:" for n in range(10)]
    pairs = [
        {"chosen": f"{one} {answer}", "rejected": f"{one} No."} for one in asked for answer in ("Ann.", "Not Bob.")
    ]
    entries = [DatasetEntry(**one) for one in rows_file(pairs)]
    train, test, _ = load_splits(RewardConfig(output_dir="unused", datasets=entries, test_split_size=5), WANTED)
    assert (len(train), len(test)) == (14, 6)
    assert not {*train["rejected"]} & {*test["rejected"]}
    both = RewardConfig(output_dir="unused", datasets=entries, eval_datasets=entries)
    assert load_splits(both, WANTED)[2]["train"].dropped == {"also held out": 20}


def test_the_same_file_for_both_is_refused(run_stage, rows_file, tmp_path):
    data = rows_file(turns(40))
    with pytest.raises(
        HfkitError, match=r"(?s)0 kept, 40 dropped \(40 also held out\).*Remove the rows with held-out prompts"
    ):
        run_stage("sft", tmp_path / "out", datasets=data, eval_datasets=data, test_split_size=None)
    assert not (tmp_path / "out").exists()


def test_a_run_leaves_the_hashes_of_its_rows(sft_dir):
    hashes = read_hashes(str(sft_dir), "main")
    assert {name: len(keys) for name, keys in hashes.items()} == {"train": 6, "test": 2}  # eight names, four rows each
    assert not set(hashes["train"]) & set(hashes["test"])
    assert (sft_dir / HASHES).stat().st_size < 1000


@pytest.mark.parametrize(
    ("stage", "role", "theirs"),
    [("reward", "train", "test"), slow("reward", "test", "train"), slow("ppo", "train", "test")],
)
def test_rows_that_an_earlier_stage_held_out_or_trained_on_are_reported(
    run_stage, rows_file, sft_dir, tmp_path, capsys, stage, role, theirs
):
    """The next stage trains on prompts that the SFT run held out, or the reverse."""
    known = read_hashes(str(sft_dir), "main")[theirs]
    names = [name for name in "Ann Bob Cid Dee Eve Fay Gus Hal".split() if key_of(name) in known]
    others = [f"P{n}" for n in range(8)]
    pairs = {True: rows_file(asked(names), "a.jsonl"), False: rows_file(asked(others), "b.jsonl")}
    settings = {"datasets": pairs[role == "train"], "eval_datasets": pairs[role == "test"]}
    if stage == "ppo":
        settings = {"datasets": pairs[True] + pairs[False]}
    else:
        settings |= {"test_split_size": None, "max_steps": 1}
    folder = run_stage(stage, tmp_path / "out", **settings)
    split = read_record(folder)["data"][role]
    stages = [found["stage"] for found in split["overlap"]]
    assert stages == (["sft"] if stage == "reward" else ["sft", "reward"])
    assert split["overlap"][0] == {"rows": len(names), "stage": "sft", "path": str(sft_dir), "split": theirs}
    part = "held out by" if theirs == "test" else "trained on by"
    assert f"{len(names)} rows of {role} have prompts that were {part} sft ({sft_dir})" in (
        warning := capsys.readouterr().err
    )
    assert warning.count("held-out metrics may be too good") == 1


@pytest.mark.slow
def test_rows_of_ptx_datasets_count_as_trained_on(run_stage, rows_file, sft_dir, tmp_path, capsys):
    """Rows held out by SFT are reported, rows held out here are removed, and both are recorded."""
    known = read_hashes(str(sft_dir), "main")["test"]
    theirs = [name for name in "Ann Bob Cid Dee Eve Fay Gus Hal".split() if key_of(name) in known]
    rows = [{"prompt": f"What does {name} like?", "response": "red."} for name in [*theirs, "Ivy", "Joe"]]
    held_out = rows_file([{"prompt": "What does Joe like?"}], "held_out.jsonl")
    changes = {"ptx_coef": 0.5, "ptx_datasets": rows_file(rows), "eval_datasets": held_out, "max_dropped": 0.5}
    folder = run_stage("ppo", tmp_path / "out", **changes)
    split = read_record(folder)["data"]["ptx"]
    assert (split["kept"], split["dropped"]) == (len(theirs) + 1, {"also held out": 1})
    assert split["overlap"][0] == {"rows": len(theirs), "stage": "sft", "path": str(sft_dir), "split": "test"}
    warning = f"{len(theirs)} rows of ptx have prompts that were held out by sft ({sft_dir})"
    assert warning in capsys.readouterr().err
    assert {*read_hashes(str(folder), "main")["ptx"]} == {key_of(name) for name in [*theirs, "Ivy"]}
    later = SFTConfig(output_dir="unused", model_name_or_path=str(folder))
    keys = np.array([key_of("Ivy"), key_of("Kim")])
    found_here = [found for _, found in overlaps(later, {"test": keys}) if found["path"] == str(folder)]
    assert found_here == [{"rows": 1, "stage": "ppo", "path": str(folder), "split": "ptx"}]


@pytest.mark.parametrize(("changes", "rows", "dropped"), [({"test_split_size": 3}, 7, {}), ({}, 10, {})])
def test_prompts_that_are_split_off_are_left_out_of_ptx_datasets(rows_file, tokenizer, changes, rows, dropped):
    data = [DatasetEntry(**one) for one in rows_file(turns(10))]
    config = PPOConfig(output_dir="unused", datasets=data, ptx_datasets=data, ptx_coef=0.5, **changes)
    stats = load_splits(config, ["prompt"])[2]
    learned, learned_account = load_ptx(config, tokenizer, stats.get("test"))
    assert (len(learned), learned_account["ptx"].rows, learned_account["ptx"].dropped) == (rows, rows, dropped)


def key_of(name: str) -> int:
    return row_key({"prompt": f"What does {name} like?"})["key"]


def asked(names: list[str]) -> list[dict]:
    return [{"prompt": f"What does {name} like?", "chosen": "red, thank you.", "rejected": "no"} for name in names]


def test_hashes_that_cannot_be_read_are_warned_of(sft_dir, tmp_path, capsys):
    shutil.copy(sft_dir / "hfkit.json", tmp_path)
    (tmp_path / HASHES).write_bytes((sft_dir / HASHES).read_bytes()[:40])
    config = SimpleNamespace(model_name_or_path=str(tmp_path), model_revision="main")
    assert [*overlaps(config, {"train": np.array([1])})] == []
    assert f"{HASHES} cannot be read: BadZipFile" in capsys.readouterr().err
