"""Fixtures for model cards: a folder of each stage, and the card that is made for it."""

from pathlib import Path

import pytest
from hub_server import cards

from hfkit.commands.merge import merge
from hfkit.hub.cards.model_card import updated_card
from hfkit.records.record import read_record

FULL = {"use_peft": False, "lora_r": None}


@pytest.fixture(scope="module")
def stage_folder(request, run_stage, runs):
    """stage_folder(name) -> the folder of a stage, as an adapter, full or merged; each is made once per module."""
    named = {"tokenizer": "tokenizer_dir", "pretrain": "base_dir"} | {n: f"{n}_dir" for n in ("sft", "reward", "ppo")}

    def make(name: str) -> Path:
        stage, _, kind = name.partition("-")
        if not kind:
            return request.getfixturevalue(named[name])
        out = runs / name
        if out.exists():
            return out
        if kind == "merged":
            return merge(str(make(stage)), out)
        if kind == "adapter":
            changes = {"model_config": None, "model_name_or_path": str(make("pretrain")), "use_peft": True}
            return run_stage(stage, out, **changes, tokenizer_name_or_path=None, max_steps=2)
        return run_stage(stage, out, **FULL)

    return make


def card_of(folder: Path, existing: str | None = None, repo_id: str | None = None) -> str:
    return updated_card(existing, folder, read_record(folder), repo_id)


def errors_in(text: str) -> list[str]:
    return cards.faults_of(text, "model")[0]
