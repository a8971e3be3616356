"""Short command lines: a YAML without --config, datasets as words, flags before and after, and no YAML at all."""

import json

import pytest
from conftest import ROWS, write_rows

from hfkit import cli
from hfkit.commands.arguments import ARGUMENTS, WITH_STAGE_FLAGS, read_arguments, split_stage_flags
from hfkit.config.card_names import card_names
from hfkit.config.evaluation import ArenaConfig, EvaluateConfig
from hfkit.config.fields import DatasetEntry
from hfkit.config.parsing import load_config, parse
from hfkit.config.registry import STAGES
from hfkit.core.errors import ConfigError

KEYS = [(spec.config_class, "datasets") for spec in STAGES.values()]
KEYS += [(EvaluateConfig, "datasets"), (EvaluateConfig, "prompts"), (ArenaConfig, "prompts")]
REQUIRED = {
    EvaluateConfig: {"model_name_or_path": "m"},
    ArenaConfig: {"models": ["a"], "prompts": "p", "judge": "human"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_yaml_is_the_first_argument_of_every_stage(stage, tmp_path):
    (tmp_path / "run.yaml").write_text("no_such_key: 1\n")
    for argv in (["run.yaml"], ["--config", "run.yaml"], ["--config=run.yaml"]):
        argv = [word.replace("run.yaml", str(tmp_path / "run.yaml")) for word in argv]
        with pytest.raises(ConfigError) as error:
            read_arguments(stage, STAGES[stage].module, [*argv, "--no_such_flag"])
        assert error.value.source == str(tmp_path / "run.yaml")
        assert [problem.key for problem in error.value.problems[:2]] == ["no_such_key", "--no_such_flag"]


@pytest.mark.parametrize("verb", ["evaluate", "arena"])
def test_a_yaml_is_the_first_argument_of_an_evaluation_too(verb, tmp_path):
    (tmp_path / "run.yaml").write_text("no_such_key: 1\n")
    with pytest.raises(ConfigError) as error:
        read_arguments(verb, f"hfkit.evaluation.{verb}", [str(tmp_path / "run.yaml")])
    assert error.value.source == str(tmp_path / "run.yaml")


def test_a_second_word_and_a_second_yaml_are_refused():
    for argv in (["a.yaml", "b.yaml"], ["a.yaml", "--config", "b.yaml"]):
        with pytest.raises(ConfigError) as error:
            read_arguments("tokenizer", "hfkit.stages.tokenizer", argv)
        assert error.value.problems[0].key in ("argument", "--config")


@pytest.mark.parametrize(("config_class", "key"), KEYS)
def test_datasets_are_words_of_a_flag_and_text_of_a_yaml(config_class, key):
    card = card_names()[0]
    entries = [DatasetEntry(path="a.jsonl"), DatasetEntry(path="b", split="test"), DatasetEntry(card=card)]
    entries += [DatasetEntry(card="mine.md")]
    given = {"output_dir": "out", **REQUIRED.get(config_class, {})}
    given.pop(key, None)
    argv = [
        word for name, value in given.items() for word in (f"--{name}", *([value] if isinstance(value, str) else value))
    ]
    words = ["a.jsonl", '{"path": "b", "split": "test"}', card, "mine.md"]
    assert getattr(parse(config_class, [*argv, f"--{key}", *words], "hfkit", ""), key) == entries
    in_yaml = ["a.jsonl", {"path": "b", "split": "test"}, card, "mine.md"]
    assert getattr(load_config(config_class, {**given, key: in_yaml}), key) == entries
    for one in ("a.jsonl", {"path": "a.jsonl"}):
        assert getattr(load_config(config_class, {**given, key: one}), key) == entries[:1]
    assert getattr(parse(config_class, [*argv, f"--{key}", "a.jsonl"], "hfkit", ""), key) == entries[:1]
    with pytest.raises(ConfigError) as error:
        load_config(config_class, {**given, key: ["a.jsonl", 5]})
    assert error.value.problems[0].key == f"{key}[1]"
    assert error.value.problems[0].remedy.startswith("expected path or {path, card")


@pytest.mark.parametrize("verb", WITH_STAGE_FLAGS)
def test_flags_of_stages_keep_their_words_wherever_they_stand(verb):
    own = {names[0] for names, _, _ in ARGUMENTS[verb]}
    argv = ["--datasets", "a", "b", "--output_dir=o", "--lora_r", "-1"]
    argv = [*argv[:3], *(argv[3:4] if "--output_dir" in own else []), *argv[4:]]
    words, flags = split_stage_flags(ARGUMENTS[verb], ["p.yaml", *argv])
    assert words == ["p.yaml", *(["--output_dir=o"] if "--output_dir" in own else [])]
    assert flags == ["--datasets", "a", "b", "--lora_r", "-1"]


def test_the_number_of_a_preview_may_touch_its_letter():
    given = read_arguments("data preview", "hfkit.commands.data.preview", ["--datasets", "a", "-n5", "--lost"])
    assert (given.n, given.lost, given.config, given.flags) == (5, True, None, ["--datasets", "a"])


def test_data_check_and_preview_of_files_without_a_yaml(tmp_path, capsys):
    files = [write_rows(tmp_path / f"{name}.jsonl", ROWS["docs"][:count]) for name, count in (("a", 3), ("b", 4))]
    words = ["--stage", "tokenizer", "--datasets", *files, "--max_duplicates", "1"]
    assert cli.main(["data", "check", *words]) == 0
    shown = capsys.readouterr().out
    assert "3 rows, 3 kept" in shown and "4 rows, 4 kept" in shown
    assert cli.main(["data", "preview", *words[:-2], "-n", "1"]) == 0
    assert capsys.readouterr().out.count("row 0") == 2
    assert cli.main(["data", "check", "--datasets", *files]) == 2
    assert "config: missing -> name a YAML; flags alone need --stage tokenizer|" in capsys.readouterr().err


def test_a_stage_trains_on_two_files_of_a_short_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.jsonl", ROWS["docs"][:3])
    (tmp_path / "run.yaml").write_text("vocab_size: 300\noutput_dir: out\n")
    assert cli.main(["tokenizer", "run.yaml", "--datasets", "a.jsonl", "b.jsonl"]) == 0
    record = json.loads((tmp_path / "out" / "hfkit.json").read_text())
    assert record["data"]["train"]["kept"] == 6


@pytest.mark.parametrize(
    ("verb", "words", "hint"),
    [
        ("chat", ["model", "--max_new_tokens", "8"], "--max_new_tokens 8; hfkit calls it --length"),
        ("chat", ["model", "--temprature=0"], "--temprature=0; did you mean --temperature?"),
        ("merge", ["adapter", "out", "--xyz"], "unrecognized arguments: --xyz\n"),
        ("plan", ["--memory", "much"], "--memory: 'much': expected a number of GB, such as 24"),
        ("serve", ["model", "--port", "x"], "--port: 'x': expected a number from 0 to 65535"),
    ],
)
def test_an_argument_that_is_refused_names_what_is_expected(verb, words, hint, capsys):
    with pytest.raises(SystemExit):
        read_arguments(verb, "hfkit.commands.merge", words)
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("memory", ["24", "24GB", "24 gb", "24G", "2.4e1"])
def test_memory_is_a_number_of_gb_with_or_without_its_unit(memory):
    assert read_arguments("plan", "hfkit.commands.plan.main", ["--memory", memory]).memory == 24


@pytest.mark.parametrize("verb", ["merge", "evaluate", "plan", "data check", "quickstart"])
def test_a_verb_that_trains_nothing_is_refused_in_several_processes(verb, monkeypatch, capsys, tmp_path):
    """Otherwise all processes would merge into one folder, and the later ones would fail."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main([*verb.split(), str(tmp_path)]) == 2
    assert f"WORLD_SIZE: '2' -> hfkit {verb} runs in one process" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert cli.main(["data", "cards"]) == 0
