"""Mixtures: shares, budgets and order, of files and of streams, and after an interruption."""

import json

import datasets
import numpy as np
import pytest
from interruption import assert_same_run, stopped_copy

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import PPOConfig, SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.forms import INSTRUCTIONS, encode_instructions, encode_prompts
from hfkit.data.mixture import Mixture
from hfkit.data.reply_tokens import NO_TOOL_CALLS
from hfkit.data.splits import load_splits
from hfkit.records.record import read_record

WEIGHTS = {"one": 0.5, "two": 0.3, "three": 0.2}


@pytest.fixture
def sources(tmp_path):
    """sources(rows, rows, rows) -> a file with this many rows for each source, and its entry; the third is a stream."""

    def make(*counts: int) -> list[dict]:
        entries = []
        for (name, weight), count in zip(WEIGHTS.items(), counts, strict=True):
            file = tmp_path / f"{name}.jsonl"
            rows = ({"text": f"{name} {n}"} for n in range(count))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            entries.append({"path": str(file), "weight": weight})
        entries[2] |= {"streaming": True, "rows": counts[-1]}
        return entries

    return make


def mixed(entries: list[dict], tokenizer, seed: int = 0, **changes):
    """Return the rows of one pass over a mixture, and its statistics."""
    config = SFTConfig(
        output_dir="unused", datasets=[DatasetEntry(**entry) for entry in entries], seed=seed, max_length=64, **changes
    )
    rows, _, stats = load_splits(config, ["prompt", "response", "text"])
    return encode_instructions(rows, tokenizer, stats["train"], config), stats["train"]


def names_of(rows, tokenizer) -> list[str]:
    """Return the source of each row, and its index in the source."""
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]


@pytest.mark.slow
def test_three_weighted_sources_one_of_them_a_stream_have_their_shares(sources, tokenizer):
    rows, stats = mixed(sources(5200, 3250, 2250), tokenizer)
    names = [name.split()[0] for name in names_of(rows.select(range(10_000)), tokenizer)]
    for name, weight in WEIGHTS.items():
        assert names.count(name) / 10_000 == pytest.approx(weight, abs=0.01)
    assert stats.mixed == len(rows)
    assert [source["taken"]["rows"] for source in stats.sources] == [
        sum(name.startswith(f"{source} ") for name in names_of(rows, tokenizer)) for source in WEIGHTS
    ]
    assert sum(source["taken"]["share"] for source in stats.sources) == pytest.approx(1, abs=1e-3)
    assert sum(source["taken"]["tokens"] for source in stats.sources) == stats.tokens == sum(rows["length"])
    # The first source is used up, and no row is seen twice.
    assert stats.sources[0]["taken"]["epochs"] == pytest.approx(1, abs=0.01)
    assert len(set(names_of(rows, tokenizer))) == len(rows)


def test_the_order_depends_only_on_the_seed(sources, tokenizer, tmp_path, monkeypatch):
    entries = sources(60, 60, 60)
    first = names_of(mixed(entries, tokenizer)[0], tokenizer)
    assert names_of(mixed(entries, tokenizer, seed=1)[0], tokenizer) != first
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")  # nothing is cached
    assert names_of(mixed(entries, tokenizer)[0], tokenizer) == first


@pytest.mark.slow
def test_a_mixture_continues_in_order_after_an_interruption(run_stage, sources, tmp_path, monkeypatch):
    settings = {"datasets": sources(40, 40, 40), "test_split_size": None, "max_steps": 6, "save_steps": 3}
    whole = run_stage("sft", tmp_path / "whole", **settings)
    stopped = stopped_copy(whole, tmp_path / "stopped", 3)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run_stage("sft", stopped, resume_from_checkpoint=True, **settings)
    assert_same_run(whole, stopped)


def test_the_realized_mixture_is_printed_and_recorded(run_stage, sources, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run_stage("sft", tmp_path / "out", datasets=sources(40, 40, 40), test_split_size=None, max_steps=1)
    table = capsys.readouterr().out.rpartition("sft: done")[0]
    assert "train: one pass over the mixture" in table and str(tmp_path) not in table
    split = read_record(folder)["data"]["train"]
    assert split["mixed"] == sum(source["taken"]["rows"] for source in split["sources"])
    assert [source["weight"] for source in split["sources"]] == [*WEIGHTS.values()]
    assert [source["rows"] for source in split["sources"]] == [40, 40, 40]


def test_one_source_has_its_tokens_in_the_record(sft_dir):
    split = read_record(sft_dir)["data"]["train"]
    assert split["sources"][0]["taken"] == {"rows": 24, "tokens": split["tokens"], "epochs": 1.0, "share": 1.0}
    assert "mixed" not in split


LENGTHS = np.array([3] * 10 + [5] * 20)
OF = np.repeat([0, 1], [10, 20])


def mixture(*entries: dict) -> Mixture:
    return Mixture([DatasetEntry(path=str(index), **entry) for index, entry in enumerate(entries)], OF, seed=0)


@pytest.mark.parametrize(
    ("budget", "rows", "epochs"),
    [
        ({"rows": 7}, 7, 0.7),
        ({"rows": 70}, 10, 1.0),
        ({"tokens": 12}, 4, 0.4),
        ({"tokens": 14}, 4, 0.4),
        ({"tokens": 1000}, 10, 1.0),
        ({"epochs": 2.5}, 25, 2.5),
        ({"epochs": 0.5}, 5, 0.5),
        ({}, 10, 1.0),
    ],
)
def test_a_budget_is_a_cap_and_epochs_repeat(budget, rows, epochs):
    made = mixture(budget, {"epochs": 1})
    indices = made.indices(LENGTHS)
    first, second = made.realized(indices, LENGTHS)
    assert (first["rows"], first["epochs"], first["tokens"]) == (rows, epochs, rows * 3)
    assert second == {"rows": 20, "tokens": 100, "epochs": 1.0, "share": round(20 / (20 + rows), 4)}
    own = indices[OF[indices] == 0]
    seen = np.bincount(own, minlength=10)[:10]
    assert seen.max() - seen.min() <= 1  # every row once before any is repeated


def test_epochs_keep_a_small_source_from_ending_the_mixture():
    small = mixture({"weight": 0.5}, {"weight": 0.5}).indices(LENGTHS)
    again = mixture({"weight": 0.5, "epochs": 3}, {"weight": 0.5}).indices(LENGTHS)
    assert (OF[small] == 0).sum() == 10
    assert (OF[again] == 1).sum() == 20 < (OF[again] == 0).sum() + 15


def test_a_weight_of_zero_takes_nothing():
    assert set(OF[mixture({"weight": 0.0}, {"weight": 2.0}).indices(LENGTHS)]) == {1}


def test_without_weights_or_budgets_rows_do_not_change():
    made = mixture({}, {})
    assert made.is_plain
    assert made.indices(LENGTHS).tolist() == [*range(30)]


@pytest.mark.parametrize(
    ("budget", "reported"),
    [({"tokens": 1}, "tokens: 1"), ({"epochs": 0.02}, "epochs: 0.02")],
    ids=["tokens", "epochs"],
)
@pytest.mark.parametrize("weight", [None, 0.5], ids=["one after another", "weighted"])
def test_a_budget_that_leaves_nothing_of_a_source_is_refused(sources, tokenizer, budget, reported, weight):
    one, two, _ = [entry | {"weight": weight} for entry in sources(5, 5, 5)]
    with pytest.raises(HfkitError) as error:
        mixed([one, two | budget], tokenizer)
    assert str(error.value).startswith(f"{two['path']}: {reported} leaves none of its 5 rows: raise it")


def test_a_source_that_is_dropped_whole_is_reported(rows_file, tokenizer, capsys):
    one = rows_file([{"prompt": f"Who is {n}?", "response": "Ann."} for n in range(9)], "a.jsonl")
    two = rows_file([{"prompt": "Who?", "response": ""}], "b.jsonl")
    rows, _ = mixed([one[0] | {"weight": 1.0}, two[0] | {"weight": 1.0}], tokenizer, max_dropped=0.5)
    assert len(rows) == 9
    assert f"{two[0]['path']}: no row of it is left in train" in capsys.readouterr().err


@pytest.mark.parametrize("budget", [{"rows": 7}, {"tokens": 60}])
def test_a_stream_fills_its_budget(rows_file, tokenizer, budget):
    entry = rows_file([{"prompt": f"Who is {n}?", "response": f"It is {n}.", "other": n} for n in range(100)])[0]
    rows, stats = mixed([entry | {"streaming": True} | budget], tokenizer)
    if "rows" in budget:
        assert len(rows) == 7 == stats.sources[0]["rows"]
    else:
        assert 60 - 25 < stats.tokens <= 60
        assert stats.sources[0]["rows"] < 60


def test_a_stream_that_ends_gives_all_it_has(rows_file, tokenizer):
    entry = rows_file([{"prompt": f"Who is {n}?", "response": f"It is {n}."} for n in range(9)])[0]
    assert len(mixed([entry | {"streaming": True, "rows": 50}], tokenizer)[0]) == 9


def test_a_stream_is_not_the_head_of_its_file_and_is_read_again_when_the_file_changes(rows_file, tokenizer):
    rows = [{"text": f"p {n}"} for n in range(50)]
    entry = rows_file(rows)[0] | {"streaming": True, "rows": 5}
    before = names_of(mixed([entry], tokenizer)[0], tokenizer)
    assert before != [f"p {n}" for n in range(5)]
    rows_file([{"text": f"q{row['text']}"} for row in rows])
    assert names_of(mixed([entry], tokenizer)[0], tokenizer) == [f"q{name}" for name in before]


CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "Hi?", "response": "Hello."},
        {"prompt": [CHAT[0]], "completion": "Hello."},
        {"messages": [{"content": "Hi?", "role": "user"}, {"content": "Hello.", "role": "assistant"}]},
        {"messages": [turn | {"name": "x"} for turn in CHAT]},
        {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"prompt": "Hi?", "response": "Hello.", "tools": None},
    ],
    ids=["text", "turns", "order of fields", "more fields", "tools", "text without tools"],
)
def test_conversations_and_prompts_with_replies_mix(rows_file, tokenizer, other):
    entries = rows_file([{"messages": CHAT}], "a.jsonl") + rows_file([other], "b.jsonl")
    config = SFTConfig(output_dir="unused", datasets=[DatasetEntry(**entry) for entry in entries])
    rows, _, stats = load_splits(config, INSTRUCTIONS)
    encoded = encode_instructions(rows, tokenizer, stats["train"], config)
    assert encoded["input_ids"][0] == encoded["input_ids"][1]


CALL = {"role": "assistant", "content": "Wait.", "tool_calls": [{"function": {"name": "who", "arguments": "{}"}}]}
NOT_JSON = {**CALL, "tool_calls": [{"function": {"name": "who", "arguments": "{Ann"}}]}
NO_MESSAGES = "neither text nor messages ({role: ..., content: ...})"


@pytest.mark.parametrize(
    ("rows", "dropped"),
    [
        ([{"prompt": [*CHAT[:1], CALL], "response": "Hello."}], {NO_TOOL_CALLS: 1}),
        ([{"prompt": [*CHAT[:1], NOT_JSON], "response": "Hello."}], {"tool_calls whose arguments are not JSON": 1}),
        ([{"prompt": [None], "response": "Hello."}, {"prompt": CHAT[:1], "response": "Hello."}], {NO_MESSAGES: 1}),
        ([{"prompt": CHAT[0], "response": "Hello."}], {}),
        ([{"prompt": "", "response": "Hello."}], {"empty": 1}),
        ([{"prompt": "Hi?", "response": None}], {"no assistant message": 1}),
    ],
    ids=["a call", "a call that is not JSON", "no turn", "a turn alone", "no prompt", "no reply"],
)
def test_rows_that_are_not_conversations_are_dropped_from_a_mixture_and_counted(rows_file, tokenizer, rows, dropped):
    entries = rows_file([{"messages": CHAT}], "a.jsonl") + rows_file(rows, "b.jsonl")
    config = SFTConfig(output_dir="unused", datasets=[DatasetEntry(**entry) for entry in entries], max_dropped=1.0)
    mixture, _, stats = load_splits(config, INSTRUCTIONS)
    kept = encode_instructions(mixture, tokenizer, stats["train"], config)
    assert (len(kept), stats["train"].dropped) == (1 + len(rows) - len(dropped), dropped)


@pytest.mark.parametrize(("other", "dropped"), [([None], {NO_MESSAGES: 1}), (CHAT[0], {})], ids=["no turn", "a turn"])
def test_invalid_prompts_are_dropped_from_a_mixture_and_counted(rows_file, tokenizer, other, dropped):
    """An invalid turn is dropped; a single turn instead of a list becomes a list."""
    entries = rows_file([{"prompt": CHAT[:1]}, {"prompt": CHAT[:1]}], "a.jsonl")
    entries += rows_file([{"prompt": other}, *[{"prompt": CHAT[:1]}] * isinstance(other, list)], "b.jsonl")
    config = PPOConfig(output_dir="unused", datasets=[DatasetEntry(**entry) for entry in entries], max_dropped=1.0)
    mixture, _, stats = load_splits(config, ["prompt"])
    encode_prompts(mixture, tokenizer, stats["train"], config)
    assert stats["train"].dropped == dropped


def test_prompts_as_text_and_as_turns_mix(rows_file, tokenizer):
    entries = rows_file([{"prompt": "Hi?"}], "a.jsonl") + rows_file([{"prompt": CHAT[:1]}], "b.jsonl")
    config = SFTConfig(output_dir="unused", datasets=[DatasetEntry(**entry) for entry in entries])
    rows = load_splits(config, ["prompt"])[0]
    assert rows["prompt"][0] == rows["prompt"][1] == CHAT[:1]
