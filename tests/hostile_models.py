"""Folders of models for tests of hostile inputs: a tiny one that loads, and functions to change it."""

import json
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory, tokenizer_dir) -> Path:
    """A tiny Llama with its tokenizer, as Transformers saves it."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=400, **SIZES))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_dir / name).is_file():
            shutil.copy(tokenizer_dir / name, folder)
    return folder


@pytest.fixture(scope="session")
def plain_adapter(plain_model) -> Path:
    """An adapter on `plain_model`, as PEFT saves it."""
    folder = plain_model.parent / "adapter"
    model = AutoModelForCausalLM.from_pretrained(plain_model)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])).save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(plain_model)}))
    return folder


@pytest.fixture
def model(plain_model, tmp_path) -> Path:
    """A copy of `plain_model` to change."""
    return Path(shutil.copytree(plain_model, tmp_path / "model"))


@pytest.fixture
def adapter(plain_adapter, tmp_path) -> Path:
    """A copy of `plain_adapter` to change."""
    return Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))


@pytest.fixture
def sft(tmp_path):
    """sft(model) -> the arguments of a run of SFT on one row."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 4)

    def arguments(model: Path) -> list[str]:
        options = ["--model_name_or_path", model, "--datasets", tmp_path / "rows.jsonl", "--max_steps", 1]
        return ["sft", *map(str, [*options, "--output_dir", tmp_path / "run"])]

    return arguments


def change_json(file: Path, **changes) -> None:
    """Change settings of a JSON file; those that are `...` are removed."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def inputs(table: dict, every: int = 6) -> list:
    """Return the parameters of a table of inputs by name: every n-th in each run, all in `make test-slow`."""
    marks = ([] if index % every == 0 else [pytest.mark.slow] for index in range(len(table)))
    return [
        pytest.param(*values, id=name, marks=mark) for (name, values), mark in zip(table.items(), marks, strict=True)
    ]
