"""`~` is expanded in every path of a key or argument: after `--key=`, in a YAML and in a card the shell does not."""

import json

import pytest
import yaml
from conftest import write_rows
from read_rows import load_entry

from hfkit.commands.arguments import ARGUMENTS, TEXT_ARGUMENTS, read_arguments
from hfkit.config.fields import DatasetEntry
from hfkit.config.parsing import load_config, parse
from hfkit.config.stages import PPOConfig, RewardConfig, SFTConfig
from hfkit.core.home import expand_home
from hfkit.data.forms import INSTRUCTIONS
from hfkit.stages.pipeline_file import read_pipeline

GIVEN = {
    "output_dir": "~/out",
    "model_name_or_path": "~/base",
    "chat_template": "~/chat.jinja",
    "datasets": [{"path": "~/rows.jsonl"}],
    "eval_datasets": [{"card": "~/mine.md"}],
}
ROW = {"prompt": "a", "response": "b"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def assert_expanded(config, home):
    found = (config.output_dir, config.model_name_or_path, config.chat_template, config.datasets[0].path)
    assert found == tuple(str(home / name) for name in ("out", "base", "chat.jinja", "rows.jsonl"))
    assert config.eval_datasets[0].card == str(home / "mine.md")


@pytest.mark.parametrize("config_class", [SFTConfig, RewardConfig, PPOConfig])
def test_in_a_mapping_a_yaml_and_flags(home, config_class):
    assert_expanded(load_config(config_class, GIVEN), home)
    (home / "a.yaml").write_text(yaml.safe_dump(GIVEN))
    assert_expanded(load_config(config_class, "~/a.yaml"), home)
    assert_expanded(parse(config_class, ["--config=~/a.yaml"], "hfkit", ""), home)
    flags = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in GIVEN.items()]
    assert_expanded(parse(config_class, flags, "hfkit", ""), home)


def test_in_lists(home):
    config = load_config(PPOConfig, GIVEN | {"reward_model_path": "~/reward", "reward_functions": ["~/f.py:f"]})
    assert (config.reward_model_path, config.reward_functions) == (str(home / "reward"), [str(home / "f.py:f")])


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_in_the_arguments_of_every_verb(home, verb):
    positional = {names[0]: options for names, _, options in ARGUMENTS[verb] if not names[0].startswith("-")}
    texts = [
        (names[-1], options)
        for names, _, options in ARGUMENTS[verb]
        if names[0].startswith("--") and not {"action", "type", "choices"} & options.keys()
    ]
    argv = [f"~/{name}" for name in positional]
    argv += [
        word
        for names, _, options in ARGUMENTS[verb]
        if {"type", "required"} <= options.keys()
        for word in (names[0], "1")
    ]
    for name, options in texts:
        argv += [name, f"~/{name}"] if "nargs" in options else [f"{name}=~/{name}"]
    given = vars(read_arguments(verb, "hfkit.commands.lineage", argv))
    for name, options in positional.items():
        assert given[name] == ([str(home / name)] if options.get("nargs") == "+" else str(home / name))
    for name, options in texts:
        key = options.get("dest", name.removeprefix("--"))
        value = f"~/{name}" if key in TEXT_ARGUMENTS else str(home / name)
        assert given[key] == ([value] if "nargs" in options else value)


def test_in_a_pipeline_and_a_card(home):
    write_rows(home / "rows.jsonl", [ROW])
    (home / "sft.yaml").write_text("output_dir: x\n")
    (home / "p.yaml").write_text("output_dir: ~/runs\nstages: {sft: ~/sft.yaml}\n")
    pipeline = read_pipeline(home / "p.yaml")
    assert pipeline.output_dir == str(home / "runs")
    assert [layer.file for layer in pipeline.stages["sft"]] == [str(home / "sft.yaml")]
    block = {"path": "~", "files": {"train": "rows.jsonl"}, "form": "prompt_response"}
    block |= {"columns": {"prompt": "prompt", "response": "response"}}
    (home / "mine.md").write_text(f"---\n{json.dumps({'license': 'mit', 'hfkit': block})}\n---\n\n# Mine\n")
    assert load_entry(DatasetEntry(card=str(home / "mine.md")), INSTRUCTIONS).to_list() == [ROW]


@pytest.mark.parametrize("text", ["a~/b", "~~", "approx. ~5", "~ 5", "~5"])
def test_other_tildes_stay(text):
    assert expand_home(text) == text
