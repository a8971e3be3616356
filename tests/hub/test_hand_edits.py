"""Text and metadata that people write into a model card, here or on the Hub, stay when the card is regenerated."""

import json
import re

import pytest
from card_fixtures import card_of, errors_in
from huggingface_hub import ModelCard
from interruption import stopped_copy
from quick import slow

from hfkit.core.errors import HfkitError
from hfkit.hub.cards.hand_edits import ParsedCard, latest_card, with_edit_hash
from hfkit.hub.cards.model_card import updated_card, write_card
from hfkit.records.record import read_record

HAND = ("A word before.", "## Thanks\n\nTo all.")


def edited(text: str) -> str:
    """A card as somebody has edited it on the Hub, whose editor may end lines with CRLF."""
    front, _, rest = text.removeprefix("---\n").partition("\n---\n")
    front = front.replace("- hfkit", "- hfkit\n- cats") + "\nlanguage: en\nlicense: mit"
    front = re.sub(r"pipeline_tag: .*\n", "", front)  # taken away
    return f"---\n{front}\n---\n\n{HAND[0]}\n{rest}\n{HAND[1]}\n".replace("\n", "\r\n")


@pytest.mark.parametrize("name", ["sft", "reward-merged", "tokenizer"])
def test_edits_are_kept(stage_folder, name):
    folder = stage_folder(name)
    first = card_of(folder, repo_id="bob/it")
    mine = edited(first)
    record = read_record(folder)
    record["metrics"]["eval_loss"] = 0.5  # trained again, with other figures
    again = updated_card(mine, folder, record, repo_id="bob/other")
    assert errors_in(again) == []
    card = ModelCard(again)
    assert (card.data.language, card.data.license, card.data.pipeline_tag) == ("en", "mit", None)
    assert card.data.tags == [*ModelCard(first).data.tags, "cats"]
    assert "No license is stated" not in again
    before, _, rest = card.text.partition("<!-- hfkit: generated")
    assert before.strip() == HAND[0]
    assert rest.partition("<!-- /hfkit -->")[2].strip() == HAND[1]
    assert again.count("# other\n") == 1
    assert "| `eval_loss` | 0.5 |" in again
    assert updated_card(again, folder, record, repo_id="bob/other") == again


def test_an_added_result_is_kept_with_the_generated_ones(reward_dir):
    card = ModelCard((reward_dir / "README.md").read_text())
    data = card.data.to_dict()
    metric = {"type": "accuracy", "value": 0.5}
    data["model-index"][0]["results"].append(
        {"task": {"type": "text-classification"}, "dataset": {"type": "a/b", "name": "B"}, "metrics": [metric]}
    )
    text = re.sub(r"^---\n.*?\n---\n", f"---\n{json.dumps(data)}\n---\n", str(card), count=1, flags=re.S)
    record = read_record(reward_dir)
    record["metrics"]["eval_accuracy"] = 0.75
    results = ModelCard(updated_card(text, reward_dir, record)).data.eval_results
    values = [(one.dataset_type, one.metric_value) for one in results if one.metric_type == "accuracy"]
    assert values == [("json", 0.75), ("a/b", 0.5)]
    record["metrics"] = {"train_loss": 1.0}  # nothing held out any more: no figure of before is left
    results = ModelCard(updated_card(text, reward_dir, record)).data.eval_results
    assert [one.dataset_type for one in results] == ["a/b"]


def test_another_card_is_kept_above_and_generated_metadata_replaces_its_own(sft_dir):
    other = (
        "---\nbase_model: /home/me/base\nlicense: mit\nlibrary_name: transformers\ntags:\n- mine\n"
        "- base_model:adapter:/home/me/base\n---\n# My model\n\nWords.\n"
    )
    record = read_record(sft_dir)
    record["base"] |= {"path": "ann/base", "revision": "c" * 40}
    text = updated_card(other, sft_dir, record, "bob/it")
    card = ModelCard(text)
    assert (card.data.base_model, card.data.license, card.data.library_name) == ("ann/base", "mit", "peft")
    assert "/home/me" not in text
    assert card.data.tags == ["hfkit", "sft", "trl", "lora", "mine"]
    assert card.text.strip().startswith("# My model\n\nWords.\n\n<!-- hfkit: generated")
    assert updated_card(text, sft_dir, record, "bob/it") == text


def test_a_card_without_metadata_is_kept(sft_dir):
    text = card_of(sft_dir, "Just words.\n")
    assert ModelCard(text).text.strip().startswith("Just words.\n\n<!-- hfkit: generated")


@pytest.mark.parametrize("front", ["a: [", "- a\n- b"])
def test_metadata_that_cannot_be_read_is_reported(sft_dir, front):
    with pytest.raises(HfkitError, match=r"the metadata of README\.md cannot be read"):
        card_of(sft_dir, f"---\n{front}\n---\nWords.\n")


def test_the_later_edit_is_kept_wherever_it_was_made(sft_dir):
    there = card_of(sft_dir, repo_id="bob/it")
    here = with_edit_hash(there)  # as it is after a push
    assert latest_card(None, there) == latest_card(there, None) == latest_card(here, there) == there
    assert latest_card(here, f"{there}Edited there.\n") == f"{there}Edited there.\n"
    assert latest_card(f"{here}Edited here.\n", there) == f"{here}Edited here.\n"
    assert latest_card("All of it is mine.\n", there) == "All of it is mine.\n"
    without = here.replace("- trl\n", "")
    assert latest_card(without, there) == without
    # with something by hand in both, edited further on either side
    there = card_of(sft_dir, f"{there}Words.\n", repo_id="bob/it")
    here = with_edit_hash(there)
    assert latest_card(here, f"{there}Edited there.\n").endswith("Edited there.\n")
    assert latest_card(f"{here}Edited here.\n", there).endswith("Edited here.\n")
    assert latest_card(f"{here}Edited.\n", f"{there}Edited.\n").endswith("Edited.\n")
    with pytest.raises(HfkitError, match="edited here and on the Hub"):
        latest_card(f"{here}Edited here.\n", f"{there}Edited there.\n")
    # a run that was never pushed takes over what is on the Hub
    assert latest_card((sft_dir / "README.md").read_text(), there) == there


def test_a_regenerated_card_still_shows_that_it_was_edited(sft_dir, tmp_path):
    for file in sft_dir.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = tmp_path / "README.md"
    there = card_of(tmp_path, repo_id="bob/it")
    card.write_text(edited(card.read_text()))
    write_card(tmp_path, read_record(tmp_path))
    assert HAND[1] in card.read_text()
    assert latest_card(card.read_text(), there) == card.read_text()  # still known to be the later edit
    assert ModelCard.load(card).data.license == "mit"


def test_a_local_card_without_markers_is_kept_above_and_counts_as_edited(sft_dir, tmp_path):
    for file in sft_dir.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = tmp_path / "README.md"
    card.write_text("# Mine\n\nAll of it.\n")
    for _ in range(2):  # as two evaluations do
        write_card(tmp_path, read_record(tmp_path))
        assert ModelCard.load(card).text.strip().startswith("# Mine\n\nAll of it.\n\n<!-- hfkit: generated")
    assert card.read_text().count("All of it.") == 1
    assert latest_card(card.read_text(), card_of(sft_dir, repo_id="bob/it")) == card.read_text()


@pytest.mark.parametrize("name", ["sft", "reward"])
def test_a_trainer_leaves_no_card_with_its_checkpoints(stage_folder, name):
    assert (stage_folder(name) / "checkpoint-3").is_dir()
    parsed = ParsedCard.of((stage_folder(name) / "README.md").read_text())
    assert (parsed.before, parsed.after) == ("", "")


@pytest.mark.parametrize("stage", ["sft", slow("ppo")])
def test_edits_during_an_interruption_are_kept(run_stage, tmp_path, stage):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    folder = stopped_copy(run_stage(stage, tmp_path / "whole", **changes), tmp_path / "stopped", 1)
    (folder / "README.md").write_text("# Mine\n\nWhat I want of it.\n")
    run_stage(stage, folder, **changes, resume_from_checkpoint=True)
    assert "# Mine\n\nWhat I want of it.\n" in (folder / "README.md").read_text()
