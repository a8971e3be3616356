"""Paths in a YAML: inputs are found in its folder, then in the current one; outputs go to the current folder."""

from pathlib import Path

import pytest
import yaml
from conftest import write_rows

from hfkit.config.evaluation import ArenaConfig, EvaluateConfig
from hfkit.config.fields import DatasetEntry
from hfkit.config.input_paths import EXISTS
from hfkit.config.labeling import LabelConfig
from hfkit.config.parsing import load_config, parse
from hfkit.config.registry import STAGES
from hfkit.config.stages import PPOConfig, SFTConfig
from hfkit.core.errors import ConfigError
from hfkit.rlhf.reward_functions import import_reward_function
from hfkit.stages.pipeline_file import read_pipeline

ROW = {"prompt": "a", "response": "b"}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folder of a YAML, and the current one."""
    in_folder, here = tmp_path / "configs", tmp_path / "here"
    in_folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    return in_folder, here


def load(folder: Path, config_class=SFTConfig, **content):
    (folder / "a.yaml").write_text(yaml.safe_dump({"output_dir": "out", **content}))
    return load_config(config_class, folder / "a.yaml")


def model_in(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")


def test_each_kind_of_input_is_found_next_to_the_yaml(folders):
    in_folder, _ = folders
    for name in ("rows.jsonl", "mine.md", "chat.jinja", "f.py"):
        (in_folder / name).write_text("x")
    for name in ("base", "reward"):
        model_in(in_folder / name)
    entries = ["rows.jsonl", {"path": "rows.jsonl", "split": "train[:2]"}, {"card": "mine.md"}, "mine.md"]
    config = load(
        in_folder,
        PPOConfig,
        datasets=entries,
        eval_datasets="rows.jsonl",
        ptx_datasets=[{"path": "rows.jsonl"}],
        chat_template="chat.jinja",
        model_name_or_path="base",
        reward_model_path="reward",
        reward_functions=["f.py:f", "package.module:f"],
    )
    rows, card = str(in_folder / "rows.jsonl"), str(in_folder / "mine.md")
    found = [(entry.path, entry.card) for entry in config.datasets]
    assert found == [(rows, None), (rows, None), (None, card), (None, card)]
    assert [entry.path for entry in config.eval_datasets + config.ptx_datasets] == [rows, rows]
    assert config.chat_template == str(in_folder / "chat.jinja")
    assert (config.model_name_or_path, config.reward_model_path) == (str(in_folder / "base"), str(in_folder / "reward"))
    assert config.reward_functions == [f"{in_folder / 'f.py'}:f", "package.module:f"]
    assert config.output_dir == "out"


def test_of_an_evaluation_too(folders):
    in_folder, _ = folders
    for name in ("base", "reward"):  # only the judge names the last one
        model_in(in_folder / name)
    (in_folder / "rows.jsonl").write_text("x")
    given = {"models": ["a=base", "base"], "prompts": "rows.jsonl", "judge": "reward", "reward_model": "base"}
    arena = load(in_folder, ArenaConfig, **given)
    assert arena.models == [f"a={in_folder / 'base'}", str(in_folder / "base")]
    assert (arena.judge, arena.reward_model) == ("reward", str(in_folder / "base"))
    evaluate = load(in_folder, EvaluateConfig, model_name_or_path="base", reference="base", datasets=["rows.jsonl"])
    assert (evaluate.reference, evaluate.datasets) == (
        str(in_folder / "base"),
        [DatasetEntry(path=str(in_folder / "rows.jsonl"))],
    )


def test_paths_that_are_not_next_to_the_yaml_do_not_change(folders):
    in_folder, here = folders
    (here / "rows.jsonl").write_text("x")
    for name in ("gpt2", "chatml"):  # folders without a model or a template
        (in_folder / name).mkdir()
    model_in(in_folder / "out")
    config = load(in_folder, datasets=["rows.jsonl", "someone/rows"], model_name_or_path="gpt2", chat_template="chatml")
    assert [entry.path for entry in config.datasets] == ["rows.jsonl", "someone/rows"]
    assert (config.model_name_or_path, config.chat_template, config.output_dir) == ("gpt2", "chatml", "out")


def test_two_files_of_one_path_are_an_error_that_names_both(folders):
    in_folder, here = folders
    for folder in folders:
        (folder / "rows.jsonl").write_text("x")
    with pytest.raises(ConfigError) as error:
        load(in_folder, datasets=[{"path": "rows.jsonl"}], lora_rr=1)
    assert [problem.key for problem in error.value.problems] == ["datasets[0].path", "lora_rr"]
    assert str(in_folder / "rows.jsonl") in str(error.value) and str(here / "rows.jsonl") in str(error.value)
    (in_folder / "rows.jsonl").unlink()
    (in_folder / "rows.jsonl").symlink_to(here / "rows.jsonl")  # one file
    assert load(in_folder, datasets="rows.jsonl").datasets[0].path == "rows.jsonl"


def test_flags_are_relative_to_the_current_folder(folders):
    in_folder, _ = folders
    (in_folder / "rows.jsonl").write_text("x")
    (in_folder / "a.yaml").write_text("output_dir: out\n")
    argv = ["--config", str(in_folder / "a.yaml"), "--datasets", "rows.jsonl"]
    assert parse(SFTConfig, argv, "hfkit sft", "").datasets[0].path == "rows.jsonl"


def test_a_yaml_in_the_current_folder_changes_no_path(folders):
    _, here = folders
    (here / "rows.jsonl").write_text("x")
    Path("a.yaml").write_text("output_dir: out\ndatasets: rows.jsonl\n")
    assert load_config(SFTConfig, "a.yaml").datasets[0].path == "rows.jsonl"


def test_the_files_of_a_pipeline(folders):
    in_folder, here = folders
    (in_folder / "sft.yaml").write_text("max_length: 8\ndatasets: rows.jsonl\n")
    (here / "reward.yaml").write_text("max_length: 8\n")
    write_rows(in_folder / "rows.jsonl", [ROW])
    pipeline = {"output_dir": "runs", "stages": {"sft": "sft.yaml", "reward": "reward.yaml"}}
    (in_folder / "p.yaml").write_text(yaml.safe_dump(pipeline))
    stages = read_pipeline(in_folder / "p.yaml").stages
    assert [stages[stage][0].file for stage in ("sft", "reward")] == [str(in_folder / "sft.yaml"), "reward.yaml"]
    (here / "sft.yaml").write_text("max_length: 9\n")
    assert read_pipeline(in_folder / "p.yaml").stages["sft"][0].file == str(in_folder / "sft.yaml")


def test_a_reward_function_in_a_file(folders):
    _, here = folders
    (here / "mine.py").write_text("def f(prompts, replies, **columns):\n    return [1.5 for _ in replies]\n")
    function = import_reward_function(f"{here / 'mine.py'}:f")
    assert function(["a"], ["b"]) == [1.5]
    assert import_reward_function("mine.py:f") is function


def test_every_key_is_one_of_a_config():
    classes = [*(spec.config_class for spec in STAGES.values()), EvaluateConfig, ArenaConfig, LabelConfig, DatasetEntry]
    known = {name for one in classes for name in one.__dataclass_fields__}
    assert EXISTS.keys() - known == {"deepspeed"}  # a key of the trainer's config
