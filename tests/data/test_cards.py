"""Data cards: the Hub accepts each, and its mapping fits a row with the dataset's real columns."""

import json
import re
from typing import get_args

import datasets
import pytest
from huggingface_hub import DatasetCard
from read_rows import load_entry

from hfkit.cli import main
from hfkit.config.card_names import card_names
from hfkit.config.fields import Conversion, DatasetEntry
from hfkit.config.stages import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.cards import load_card
from hfkit.data.comparisons import PREFERENCES, encode_comparisons
from hfkit.data.conversions import ROW_CONVERSIONS, TABLE_CONVERSIONS
from hfkit.data.faults import Fault
from hfkit.data.forms import (
    INSTRUCTIONS,
    PROMPTS,
    TEXT,
    encode_instructions,
    encode_prompts,
)
from hfkit.data.packing import pack_documents
from hfkit.data.splits import SplitStats, load_rows

ASKED, SAID = "What does Ann like?", "Ann likes red."
USER, ASSISTANT = {"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}
WORSE = {"role": "assistant", "content": "No."}
CHAT = [USER, ASSISTANT]
RATINGS = {"correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 1}
WEB = {"id": "x", "dump": "d", "url": "u", "file_path": "f", "language": "en", "language_score": 0.9}
WEB |= {"token_count": 9, "score": 3.1, "int_score": 3}
LONG = "Ann likes red. " * 20
# Rows with the real columns of each dataset.
ROWS = {
    "fineweb-edu": [{"text": LONG, **WEB}],
    "tinystories": [{"text": LONG}],
    "wikitext": [{"text": ""}, {"text": " = Title = \n"}, {"text": LONG}],
    "ultrachat": [{"prompt": ASKED, "prompt_id": "1", "messages": CHAT}],
    "tulu-3-sft": [{"id": "1", "messages": CHAT, "source": "s"}],
    "smoltalk": [{"messages": CHAT, "source": "s"}],
    "openhermes": [
        {
            "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}],
            "source": "s",
            "category": None,
        }
    ],
    "alpaca": [{"instruction": "What does she like?", "input": "Ann", "output": SAID, "text": "all of it"}],
    "ultrafeedback": [
        {
            "prompt": ASKED,
            "prompt_id": "1",
            "chosen": CHAT,
            "rejected": [USER, WORSE],
            "messages": CHAT,
            "score_chosen": 8.5,
            "score_rejected": 6.0,
        }
    ],
    "hh-rlhf": [
        {
            "chosen": f"\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: {ASKED}\n\nAssistant: {SAID}",
            "rejected": f"\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: {ASKED}\n\nAssistant: No.",
        }
    ],
    "helpsteer2": [
        {"prompt": f"Hi.\n\n<extra_id_1>Assistant\nHello.\n\n<extra_id_1>User\n{ASKED}", "response": reply, **RATINGS}
        | {"helpfulness": score}
        for reply, score in (("No.", 1), (SAID, 4))
    ],
    "nectar": [
        {
            "prompt": f"\n\nHuman: {asked}\n\nAssistant: ",
            "answers": [{"answer": SAID, "model": "a", "rank": 1.0}, {"answer": "No.", "model": "b", "rank": 2.0}],
            "turns": 1,
            "num_responses": 2,
            "source": ["s"],
            "good_natured": good,
        }
        for asked, good in ((ASKED, True), ("Do harm.", False))
    ],
    "quickstart-documents": [{"text": LONG}],
    "quickstart-instructions": [{"messages": CHAT}],
    "quickstart-preferences": [{"prompt": [USER], "chosen": SAID, "rejected": "No."}],
    "quickstart-rankings": [{"prompt": [USER], "replies": [SAID, "No."], "scores": [0.9, 0.1]}],
    "quickstart-prompts": [{"prompt": [USER]}],
}
TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}, USER]


@pytest.fixture
def entry_of(tmp_path):
    """entry_of(card, split) -> an entry with the rows above, as files or a saved dataset."""

    def make(name: str, split: str = "train", rows: list[dict] | None = None, folder=tmp_path) -> DatasetEntry:
        recipe, rows = load_card(name).recipe, datasets.Dataset.from_list(rows or ROWS[name])
        if recipe.files:
            rows.to_json(folder / recipe.files[split])
        else:
            datasets.DatasetDict({recipe.splits[split]: rows}).save_to_disk(folder)
        return DatasetEntry(card=name, path=str(folder), split=split)

    return make


def test_every_card_has_a_fixture_row():
    assert sorted(ROWS) == card_names()


@pytest.mark.parametrize("name", [*ROWS, "TEMPLATE"])
def test_the_hub_accepts_a_card(name):
    card = load_card(name)
    metadata = DatasetCard(card.file.read_text()).data
    assert metadata.license
    assert metadata.pretty_name
    assert "license" in metadata.to_yaml()
    for part in ("Source", "License", "A row", "How it was made", "Known faults", "In hfkit"):
        assert f"\n**{part}" in card.text
    assert f"card: {name}" in card.text or name == "TEMPLATE"
    # A card of unknown license states this and names no reviewed commit.
    pinned = card.recipe.files or re.fullmatch("[0-9a-f]{40}", card.recipe.revision)
    assert bool(pinned) == (name not in ("openhermes", "TEMPLATE"))


@pytest.mark.parametrize("name", [name for name in ROWS if load_card(name).recipe.form == "text"])
def test_a_text_card_gives_documents(name, entry_of, tokenizer):
    rows, stats = load_entry(entry_of(name), TEXT), SplitStats("train", rows=len(ROWS[name]))
    config = PretrainConfig(output_dir="unused", block_size=16, max_dropped=0.5)
    packed, _ = pack_documents(rows, tokenizer, stats, config)
    assert len(packed) > 0
    assert stats.kept == sum(bool(row["text"]) for row in ROWS[name])


@pytest.mark.parametrize(
    "name", [name for name in ROWS if load_card(name).recipe.form in ("messages", "prompt_response")]
)
def test_an_instruction_card_gives_a_reply_to_learn(name, entry_of, tokenizer):
    rows, stats = load_entry(entry_of(name), INSTRUCTIONS), SplitStats("train", rows=1)
    encoded = encode_instructions(rows, tokenizer, stats, SFTConfig(output_dir="unused", max_length=128))
    assert tokenizer.decode([label for label in encoded[0]["labels"] if label >= 0]) == f"{SAID}<|endoftext|>"
    asked = "What does she like?\n\nAnn" if name == "alpaca" else ASKED
    assert tokenizer.decode(encoded[0]["input_ids"]).startswith(f"<|user|>\n{asked}\n<|assistant|>\n")


@pytest.mark.parametrize("name", [name for name in ROWS if load_card(name).recipe.form == "preference"])
def test_a_preference_card_gives_a_pair_of_replies_to_one_prompt(name, entry_of, tokenizer):
    rows, stats = load_entry(entry_of(name), PREFERENCES), SplitStats("train", rows=1)
    encoded = encode_comparisons(rows, tokenizer, stats, RewardConfig(output_dir="unused", max_length=128))[0]
    chosen, rejected = tokenizer.decode(encoded["chosen_ids"]), tokenizer.decode(encoded["rejected_ids"])
    assert chosen.endswith(f"<|user|>\n{ASKED}\n<|assistant|>\n{SAID}<|endoftext|>")
    assert rejected.endswith(f"<|user|>\n{ASKED}\n<|assistant|>\nNo.<|endoftext|>")
    assert chosen.count("<|user|>") == (2 if name == "hh-rlhf" else 1)
    assert "margin" not in encoded


@pytest.mark.parametrize("name", [name for name in ROWS if load_card(name).recipe.form == "ranking"])
def test_a_ranking_card_gives_replies_with_their_ranks_or_scores(name, entry_of):
    rows = load_entry(entry_of(name), ["prompt", "replies", "ranks", "scores"])
    assert len(rows) == 1
    assert rows[0]["prompt"] == (TURNS if name == "helpsteer2" else [USER])
    better = dict(zip(rows[0]["replies"], rows[0].get("scores") or [-rank for rank in rows[0]["ranks"]], strict=True))
    assert better[SAID] > better["No."]


@pytest.mark.parametrize("name", [name for name in ROWS if load_card(name).recipe.form != "text"])
def test_a_card_with_prompts_gives_prompts_for_ppo(name, entry_of, tokenizer):
    rows, stats = load_entry(entry_of(name), PROMPTS), SplitStats("train", rows=1)
    encoded = encode_prompts(rows, tokenizer, stats, PPOConfig(output_dir="unused"))
    asked = "What does she like?\n\nAnn" if name == "alpaca" else ASKED
    assert tokenizer.decode(encoded[0]["input_ids"]).endswith(f"<|user|>\n{asked}\n<|assistant|>\n")


@pytest.mark.parametrize(
    ("name", "wanted", "form"),
    [
        ("tinystories", PROMPTS, "text"),
        ("hh-rlhf", INSTRUCTIONS, "preference"),
        ("ultrachat", TEXT, "messages"),
        ("quickstart-prompts", INSTRUCTIONS, "prompts"),
        ("alpaca", PREFERENCES, "prompt_response"),
    ],
)
def test_a_card_of_another_stage_is_refused(name, wanted, form):
    with pytest.raises(HfkitError, match=f"has the form {form}; this stage reads {', '.join(wanted[:3])}"):
        load_entry(DatasetEntry(card=name), wanted)


def test_cards_are_listed_and_shown(capsys):
    assert main(["data", "cards"]) == 0
    table = capsys.readouterr().out
    assert all(f" {name} " in table for name in card_names())
    assert main(["data", "cards", "hh-rlhf"]) == 0
    assert "Crowd workers" in capsys.readouterr().out
    assert main(["data", "cards", "hh-rlfh"]) == 1
    assert "there is no data card 'hh-rlfh'; did you mean hh-rlhf?" in capsys.readouterr().err
    assert main(["data", "card"]) == 2
    assert "did you mean `hfkit data cards`?" in capsys.readouterr().err
    assert main(["data", "--help"]) == 0
    assert "  cards " in capsys.readouterr().out


BLOCK = {"path": "a/b", "form": "messages", "columns": {"messages": "talk"}, "splits": {"train": "train"}}


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"form": "chats"}, r"hfkit\.form: 'chats' -> expected one of: text, prompt_response"),
        ({"colums": {}}, r"hfkit\.colums: {} -> unknown; did you mean columns\?"),
        ({"columns": {"text": "talk"}}, r"the form messages lacks messages and has no text"),
        ({"form": "ranking", "columns": {"prompt": "p", "replies": "r"}}, "lacks ranks or scores"),
        ({"splits": {}}, r"hfkit\.splits: {} -> set either splits .* or files"),
        ({"splits": {}, "files": {"train": "../../etc/passwd"}}, r"hfkit\.files\.train: .* -> name a file"),
        ({"convert": ["eval"]}, r"hfkit\.convert\[0\]: 'eval' -> expected one of: transcript, shared_prompt"),
        ({"keep": [{"column": "a"}]}, r"hfkit\.keep\[0\]: 'a' -> set exactly one of equals, one_of, at_least, at_most"),
        ({"replies": 4}, r"hfkit\.replies: 4 -> only for the form ranking; expected at least 2"),
        ({"path": None}, r"hfkit\.path: missing -> required"),
    ],
)
def test_an_invalid_block_is_reported(tmp_path, changes, reported):
    block = json.dumps({"license": "mit", "hfkit": {**BLOCK, **changes}})
    (tmp_path / "mine.md").write_text(f"---\n{block}\n---\n\n# Mine\n")
    with pytest.raises(ConfigError, match=reported):
        load_card(str(tmp_path / "mine.md"))


@pytest.mark.parametrize(
    ("text", "reported"),
    [("# no front matter\n", "has no hfkit: block"), ("---\na: [\n---\n", "cannot be read")],
)
def test_a_file_that_is_not_a_card_is_reported(tmp_path, text, reported):
    (tmp_path / "mine.md").write_text(text)
    with pytest.raises(HfkitError, match=reported):
        load_card(str(tmp_path / "mine.md"))


def test_a_users_card_reads_the_users_files(tmp_path):
    rows = [{"q": f"question {n}", "a": f"answer {n}", "stars": n} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    block = {
        "path": str(tmp_path),
        "files": {"train": "rows.jsonl"},
        "form": "prompt_response",
        "columns": {"prompt": "q", "response": "{a}, {stars} stars"},
        "keep": [{"column": "stars", "at_least": 3}, {"column": "stars", "at_most": 5}],
    }
    (tmp_path / "mine.md").write_text(f"---\n{json.dumps({'license': 'mit', 'hfkit': block})}\n---\n\n# Mine\n")
    entry = DatasetEntry(card=str(tmp_path / "mine.md"), split="train[:5]")
    assert load_entry(entry, INSTRUCTIONS).to_list() == [
        {"prompt": f"question {n}", "response": f"answer {n}, {n} stars"} for n in (3, 4)
    ]


def test_a_copy_of_a_card_can_map_margins(tmp_path, entry_of):
    entry = entry_of("ultrafeedback")
    margin = "rejected: rejected, margin: score_chosen - score_rejected}"
    text = load_card("ultrafeedback").file.read_text().replace("rejected: rejected}", margin)
    (tmp_path / "mine.md").write_text(text)
    entry.card = str(tmp_path / "mine.md")
    assert load_entry(entry, PREFERENCES)["margin"] == [2.5]


@pytest.mark.parametrize("empty", ["chosen", "rejected"])
def test_an_empty_reply_of_a_transcript_is_not_replaced_by_an_earlier_one(entry_of, tokenizer, empty):
    (row,) = ROWS["hh-rlhf"]
    cut = row | {empty: row[empty].rpartition("Assistant: ")[0] + "Assistant: "}
    entry = entry_of("hh-rlhf", rows=[cut])
    rows, stats = load_entry(entry, PREFERENCES), SplitStats("train", rows=1)
    made = encode_comparisons(rows, tokenizer, stats, RewardConfig(output_dir="unused", max_length=128))[0]
    assert tokenizer.decode(made[f"{empty}_ids"]).endswith(f"<|user|>\n{ASKED}\n<|assistant|>\n<|endoftext|>")
    assert stats.faults == ({Fault.EMPTY_CHOSEN: 1} if empty == "chosen" else {})


def test_cards_of_conversations_and_of_instructions_can_be_mixed(entry_of, tmp_path):
    """Other columns of their datasets do not prevent mixing."""
    ultrachat, alpaca = entry_of("ultrachat"), entry_of("alpaca", folder=tmp_path / "alpaca")
    rows, _ = load_rows("train", [ultrachat, alpaca], INSTRUCTIONS)
    assert rows.column_names == ["messages"]
    assert [turns[0]["content"] for turns in rows["messages"]] == [ASKED, "What does she like?\n\nAnn"]


def test_a_card_can_name_every_conversion():
    assert {*get_args(Conversion)} == {*ROW_CONVERSIONS, *TABLE_CONVERSIONS}
