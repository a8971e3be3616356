"""Every recipe of `configs/recipes`: it parses, plans, and trains a tiny twin of its model through all stages."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from quick import mostly_slow
from recipe_models import MODELS, write_model
from recipe_table import HARDWARE, PAGE, ROOT, STAGES, header, peaks, recipe_of, row_of
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import hfkit
from hfkit.commands.plan.read_stages import read_stages
from hfkit.models.adapter_shape import on_meta
from hfkit.records.record import read_record
from hfkit.stages.pipeline import run_pipeline
from hfkit.training.memory.device import gpu_of

RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))
FACTS = [(name, colour) for name in ("Ann", "Bob", "Cid", "Dee") for colour in ("red", "blue", "green", "pink")]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """folder_of(name): a folder with the tiny config and the tokenizer of a model's twin, without weights."""
    made: dict[str, str] = {}

    def make(name: str) -> str:
        if name not in made:
            made[name] = write_model(tmp_path_factory.mktemp(name), MODELS[name], is_tiny=True)
        return made[name]

    return make


def test_there_is_a_recipe_for_each_model_and_gpu():
    assert [path.name for path in RECIPES] == sorted(recipe_of(name, way).name for name in MODELS for way in HARDWARE)
    used = "".join(path.read_text() for path in [*RECIPES, *(ROOT / "configs" / "recipes" / "base").glob("*.yaml")])
    assert all(path.name in used for path in (ROOT / "configs" / "recipes" / "base").glob("*.yaml"))


@pytest.mark.parametrize("name", MODELS)
def test_the_architectures_have_the_sizes_of_the_models(name):
    count = sum(one.numel() for one in on_meta(MODELS[name].config(), AutoModelForCausalLM).parameters())
    assert count / 1e6 == pytest.approx(MODELS[name].parameters, rel=0.01)


@pytest.mark.parametrize("recipe", mostly_slow(RECIPES, RECIPES[::3]), ids=lambda path: path.stem)
def test_a_recipe_parses_and_plans(recipe, folder_of, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, _, method = recipe.stem.rpartition("-")
    flags = ["--sft.model_name_or_path", folder_of(name)]
    stages = read_stages(str(recipe), None, None, flags, gpu_of(HARDWARE[method][1] * 10**9))
    assert [stage.spec.name for stage in stages] == [*STAGES]
    assert {stage.config.output_dir for stage in stages} == {f"runs/{recipe.stem}/{stage}" for stage in STAGES}
    for stage in stages:
        config = stage.config
        assert (config.use_peft, config.load_in_4bit, config.dtype) == (True, method == "qlora", "bfloat16")
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
        assert rows == (64 if stage.spec.name == "ppo" else 16)
    assert MODELS[name].hub_id in recipe_of(name, "qlora").read_text()


def write_dataset(folder: Path, splits: dict[str, list[dict]]) -> str:
    """Write a dataset to a folder, with splits of any name."""
    folder.mkdir()
    files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    front = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{front}---\n")
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def turns(question: str, *replies: str) -> list[dict]:
    asked = [{"role": "user", "content": question if index == 0 else "Sure?"} for index in range(len(replies))]
    reported = [{"role": "assistant", "content": reply} for reply in replies]
    return [turn for pair in zip(asked, reported, strict=True) for turn in pair]


@pytest.fixture(scope="module")
def datasets_by_name(tmp_path_factory) -> dict[str, str]:
    """Small datasets with the columns and splits of those that the cards name."""
    folder = tmp_path_factory.mktemp("datasets_by_name")
    talks, pairs = [], []
    for name, colour in FACTS:
        question, good, bad = f"What does {name} like?", f"{name} likes {colour}.", colour
        talks.append({"prompt": question, "prompt_id": name, "messages": turns(question, good, f"Yes, {colour}.")})
        replies = {"chosen": turns(question, good), "rejected": turns(question, bad)}
        pairs.append({"prompt": question, **replies, "score_chosen": 9.0, "score_rejected": 3.0})
    return {
        "ultrachat": write_dataset(folder / "talks", {"train_sft": talks, "test_sft": talks[:4]}),
        "ultrafeedback": write_dataset(folder / "pairs", {"train_prefs": pairs, "test_prefs": pairs[:4]}),
    }


def flags_for_a_twin(model: str, datasets_by_name: dict[str, str]) -> list[str]:
    """What makes a recipe small: model, data, steps and lengths of sampling. Everything else is the recipe's."""

    def source(card: str, split: str) -> str:
        return json.dumps([{"card": card, "path": datasets_by_name[card], "split": split}])

    given = {"sft.model_name_or_path": model, "max_dropped": "1"}
    for stage, card in (("sft", "ultrachat"), ("reward", "ultrafeedback")):
        given |= {f"{stage}.datasets": source(card, "train"), f"{stage}.eval_datasets": source(card, "test")}
        given |= {f"{stage}.max_steps": "2", f"{stage}.gradient_accumulation_steps": "2"}
    given |= {"ppo.datasets": source("ultrafeedback", "train"), "ppo.test_split_size": "2", "ppo.total_episodes": "8"}
    given |= {
        "ppo.per_device_train_batch_size": "2",
        "ppo.gradient_accumulation_steps": "4",
        "ppo.response_length": "8",
    }
    return [word for key, value in given.items() for word in (f"--{key}", value)]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_a_twin_of_its_model(recipe, datasets_by_name, tmp_path):
    name, _, _ = recipe.stem.rpartition("-")
    folder = write_model(tmp_path / "model", MODELS[name], is_tiny=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder)
    root = run_pipeline(recipe, str(tmp_path / "runs"), flags_for_a_twin(folder, datasets_by_name))
    records = {stage: read_record(root / stage) for stage in STAGES}
    assert {record["status"] for record in records.values()} == {"done"}
    assert all(weight.any() for weight in load_file(root / "sft" / "adapter_model.safetensors").values())
    with torch.no_grad():
        before, logits = model(torch.tensor([[5, 6, 7, 8]])).logits, {}
        for stage in ("sft", "ppo"):
            policy, _ = hfkit.load_policy(str(root / stage))
            logits[stage] = policy(torch.tensor([[5, 6, 7, 8]])).logits
    assert not torch.equal(before, logits["sft"]) and not torch.equal(logits["sft"], logits["ppo"])
    assert records["reward"]["metrics"].keys() >= {"eval_accuracy"}


@pytest.mark.slow
def test_the_table_has_the_peaks_of_a_plan(tmp_path):
    """Of one model; `python tests/recipe_table.py` writes all rows."""
    check_row("gpt2", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_row_of_the_table_is_that_of_a_plan(name, tmp_path):
    check_row(name, tmp_path)


def check_row(name: str, folder: Path) -> None:
    model = write_model(folder, MODELS[name])
    planned = {method: peaks(recipe_of(name, method), model, size) for method, (_, size) in HARDWARE.items()}
    assert row_of(name, planned) in PAGE.read_text().splitlines()
    assert all(planned[method][stage] <= size * 1e9 for method, (_, size) in HARDWARE.items() for stage in STAGES)


def test_the_table_has_a_row_for_each_model():
    text = PAGE.read_text()
    assert header() in text
    assert re.findall(r"^\| ([\w.-]+/\S+) \|", text, re.MULTILINE) == [model.hub_id for model in MODELS.values()]
