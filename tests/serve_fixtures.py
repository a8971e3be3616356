"""Models that test how `hfkit serve` generates."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import GenerationConfig

from hfkit.data.built_in_templates import read_built_in
from hfkit.models.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def endless_dir(base_dir, tmp_path_factory) -> Path:
    """A model whose responses do not end for minutes: its end token is one that it never saw."""
    folder = tmp_path_factory.mktemp("endless") / "endless"
    shutil.copytree(base_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.eos_token = "<|user|>"
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def toolbox_dir(base_dir, tmp_path_factory) -> Path:
    """A model whose chat template has tools."""
    folder = tmp_path_factory.mktemp("toolbox") / "toolbox"
    shutil.copytree(base_dir, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / "chat_template.jinja").write_text(read_built_in("qwen3"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return folder
