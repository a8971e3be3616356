"""Strict parsing: accepted values, and errors with their remedies."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from hfkit.config.parsing import Layer, load_config, parse
from hfkit.config.stages import SFTConfig
from hfkit.core.errors import ConfigError, Problem


@dataclass
class Source:
    path: str
    split: str = "train"
    columns: dict[str, str] | None = None


@dataclass
class Stage:
    model: str = field(metadata={"help": "the model, 100% of it"})
    lora_r: int = 16
    learning_rate: float = field(default=2e-4, metadata={"help": "peak of the schedule"})
    max_steps: int | None = None
    bf16: bool = False
    packing: bool = True
    dtype: Literal["auto", "float32"] = "auto"
    eval_strategy: Literal["no", "steps"] = "no"
    scheduler: Literal["linear", "cosine"] = "linear"
    targets: list[str] | str | None = None
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    datasets: list[Source] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    hub_token: str | None = None
    eval_steps: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def extra_field(cls, name):
        return {"torch_compile": bool, "run_name": str | None, "optim_kwargs": dict[str, float] | None}.get(name)

    @classmethod
    def refused_field(cls, name):
        return {"trust_remote_code": "hfkit runs no remote code"}.get(name)


def contradictions(config):
    if config.eval_strategy == "no" and config.eval_steps:
        remedy = "set eval_strategy: steps, or remove it"
        return [Problem("eval_steps", config.eval_steps, remedy, keys=("eval_strategy",))]
    return []


def from_yaml(tmp_path, text, *flags):
    path = tmp_path / "stage.yaml"
    path.write_text(text, encoding="utf-8")
    return parse(Stage, ["--config", str(path), *flags], "hfkit stage", "what it does", contradictions)


def from_flags(*flags):
    return parse(Stage, ["--model", "m", *flags], "hfkit stage", "what it does", contradictions)


def reported(call, *args):
    """Return the problems of a call that must fail, as a dict from key to (value, remedy)."""
    with pytest.raises(ConfigError) as caught:
        call(*args)
    problems = caught.value.problems
    keys = {problem.key: (problem.value, problem.remedy) for problem in problems}
    assert len(keys) == len(problems), [str(problem) for problem in problems]
    return keys


def test_flags_beat_yaml_and_yaml_beats_defaults(tmp_path):
    config = from_yaml(tmp_path, "model: a\nlora_r: 8\nlearning_rate: 1e-4\n", "--lora-r", "4", "--bf16")
    assert (config.model, config.lora_r, config.learning_rate, config.bf16) == ("a", 4, 1e-4, True)
    assert config.scheduler == "linear"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),
        ("learning_rate: '1e-4'", "learning_rate", 1e-4),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("max_steps: null", "max_steps", None),
        ("betas: [1, 0.95]", "betas", [1.0, 0.95]),
        ("targets: all-linear", "targets", "all-linear"),
        ("targets: [q, v]", "targets", ["q", "v"]),
        ("options: {min_lr: 1e-5, deep: {a: [1]}}", "options", {"min_lr": 1e-5, "deep": {"a": [1]}}),
        ("options: {day: 2026-11-26}", "options", {"day": "2026-11-26"}),
        ("datasets: [{path: a, columns: {text: b}}]", "datasets", [Source("a", "train", {"text": "b"})]),
        ("run_name: first\ntorch_compile: true", "extra", {"run_name": "first", "torch_compile": True}),
    ],
)
def test_yaml_values(tmp_path, text, name, expected):
    value = getattr(from_yaml(tmp_path, f"model: m\n{text}\n"), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("name", ["lora_r", "bf16", "betas", "options", "datasets", "torch_compile"])
def test_a_key_without_a_value_has_its_default(tmp_path, name):
    assert from_yaml(tmp_path, f"model: m\n{name}:\n") == from_yaml(tmp_path, "model: m\n")


def test_a_required_key_needs_a_value(tmp_path):
    assert reported(from_yaml, tmp_path, "model:\n")["model"][1].startswith("required")


def test_a_key_without_a_value_takes_back_that_of_an_earlier_file():
    layers = [Layer({"lora_r": 8, "torch_compile": True}), Layer({"lora_r": None, "torch_compile": None})]
    config = parse(Stage, ["--model", "m"], "hfkit stage", "", layers=layers)
    assert config == from_flags()


@pytest.mark.parametrize(
    ("flags", "name", "expected"),
    [
        (["--learning_rate", "1e-4"], "learning_rate", 1e-4),
        (["--learning-rate=-1e-4"], "learning_rate", -1e-4),
        (["--learning-rate", "-1e-4"], "learning_rate", -1e-4),
        (["--bf16"], "bf16", True),
        (["--bf16", "false"], "bf16", False),
        (["--bf16", "1"], "bf16", True),
        (["--no_packing"], "packing", False),
        (["--no-bf16"], "bf16", False),
        (["--max_steps", "none"], "max_steps", None),
        (["--max_steps", "5"], "max_steps", 5),
        (["--hub_token", "12"], "hub_token", "12"),
        (["--hub_token", "null"], "hub_token", None),
        (["--hub_token", "say # it: so"], "hub_token", "say # it: so"),
        (["--betas", "0.9", "1"], "betas", [0.9, 1.0]),
        (["--betas", "[]"], "betas", []),
        (["--targets", "all-linear"], "targets", "all-linear"),
        (["--targets", "q", "v"], "targets", ["q", "v"]),
        (["--targets", '["q"]'], "targets", ["q"]),
        (["--options", '{"a": {"b": 1}}'], "options", {"a": {"b": 1}}),
        (["--datasets", '[{"path": "a"}]'], "datasets", [Source("a")]),
        (["--datasets", '[{path: a, split: "train[:9]"}]'], "datasets", [Source("a", "train[:9]")]),
        (["--targets", "[PAD]"], "targets", "[PAD]"),
        (["--torch-compile", "--run_name", "7"], "extra", {"torch_compile": True, "run_name": "7"}),
    ],
)
def test_flag_values(flags, name, expected):
    value = getattr(from_flags(*flags), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "key", "value", "remedy"),
    [
        ("learning_rat: 1", "learning_rat", 1, "unknown; did you mean learning_rate?"),
        ("zzz: 1", "zzz", 1, "unknown; remove it (--help lists the keys)"),
        ("extra: {a: 1}", "extra", {"a": 1}, "write its content as keys of the config"),
        ("trust_remote_code: true", "trust_remote_code", True, "hfkit runs no remote code"),
        (
            "datasets: [{path: a}, {path: b, splt: c}]",
            "datasets[1].splt",
            "c",
            "unknown; did you mean split?",
        ),
        ("datasets: [{split: a}]", "datasets[0].path", "missing", "required; add it"),
        (
            "datasets: a.jsonl",
            "datasets",
            "a.jsonl",
            "expected list of {path, split, columns}, such as [a, b]",
        ),
        ("datasets: [a]", "datasets[0]", "a", "expected {path, split, columns}"),
        ("datasets: [{path: a, columns: {b: 1}}]", "datasets[0].columns.b", 1, "expected text; quote it"),
        ("lora_r: 16.5", "lora_r", 16.5, "expected integer"),
        ("lora_r: '16'", "lora_r", "16", "expected integer"),
        ("lora_r: true", "lora_r", True, "expected integer"),
        ("max_steps: 1.5", "max_steps", 1.5, "expected integer"),
        ("learning_rate: fast", "learning_rate", "fast", "expected number"),
        ("learning_rate: true", "learning_rate", True, "expected number"),
        ("learning_rate: -.inf", "learning_rate", float("-inf"), "expected a finite number"),
        ("learning_rate: nan", "learning_rate", "nan", "expected a finite number"),
        ("hub_token: 5", "hub_token", 5, "expected text; quote it"),
        ("options: {1: 2}", "options.1", 1, "expected text; quote it"),
        ("scheduler: liner", "scheduler", "liner", "expected one of: linear, cosine"),
        ("dtype: fp8", "dtype", "fp8", "expected one of: auto, float32"),
        ("bf16: 1", "bf16", 1, "expected true/false"),
        ("betas: [0.9, x]", "betas[1]", "x", "expected number"),
        ("targets: [q, 1]", "targets[1]", 1, "expected text; quote it"),
        ("targets: 1", "targets", 1, "expected list of text or text or none"),
        ("torch_compile: 'on'", "torch_compile", "on", "expected true/false"),
        ("optim_kwargs: {eps: x}", "optim_kwargs.eps", "x", "expected number"),
        ("lora_r: 8\nbf16: true\nlora_r: 8", "lora_r", 8, "given twice, on lines 2 and 4; keep one"),
        ("options: {a: {b: 1,\n b: 2}}", "options.a.b", 2, "given twice, on lines 2 and 3; keep one"),
        ("eval_steps: 5", "eval_steps", 5, "set eval_strategy: steps, or remove it"),
    ],
)
def test_yaml_faults(tmp_path, text, key, value, remedy):
    assert reported(from_yaml, tmp_path, f"model: m\n{text}\n") == {key: (value, remedy)}


def test_a_bare_no_is_to_be_quoted(tmp_path):
    value, remedy = reported(from_yaml, tmp_path, "model: m\neval_strategy: no\n")["eval_strategy"]
    assert value is False
    assert remedy.startswith("expected one of: no, steps; quote it")


@pytest.mark.parametrize(
    ("flags", "key", "value", "remedy"),
    [
        (["--learning", "1e-4"], "--learning", "1e-4", "unknown; did you mean --learning_rate?"),
        (["--lora_r", "1", "--lora-r=2"], "--lora_r", ["1", "2"], "given twice; keep one"),
        (["--lora_r", "--bf16"], "--lora_r", "missing", "expected integer after it"),
        (["--no_bf16=true"], "--no_bf16", "true", "takes no value; write --bf16 true or false"),
        (["--lora_r", "1", "2"], "--lora_r", ["1", "2"], "expected integer"),
        (["--lora_r=16.0"], "--lora_r", 16.0, "expected integer"),
        (["--bf16", "maybe"], "--bf16", "maybe", "expected true/false"),
        (["--betas", "0.1", "x"], "--betas[1]", "x", "expected number"),
        (["--options", "{"], "--options", "{", "expected mapping"),
        (["--options", "1"], "--options", 1, "expected mapping"),
        (["--datasets", '[{"pth": 1, "path": "a"}]'], "--datasets[0].pth", 1, "unknown; did you mean path?"),
        (["--torch_compile", "maybe"], "--torch_compile", "maybe", "expected true/false"),
        (["--trust-remote-code"], "--trust_remote_code", "", "hfkit runs no remote code"),
        (["--lora_r=1", "stray"], "argument", "stray", "does not follow a flag; write --FLAG VALUE"),
        (["--config", "none.yaml"], "config", "none.yaml", "no such file"),
        (["--config=none.yaml"], "config", "none.yaml", "no such file"),
    ],
)
def test_flag_faults(flags, key, value, remedy):
    assert reported(from_flags, *flags) == {key: (value, remedy)}


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("model: m\nlora_r: [1\n", ":3", "not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c\n", ":1", "not valid YAML: mapping values are not allowed here"),
        ("model: !!python/object/apply:os.getcwd []\n", ":1", "not valid YAML: could not determine"),
        ("- a\n", "", "expected a mapping in the file: lines of `key: value`"),
        ("", "", "expected a mapping in the file: lines of `key: value`"),
        ("model: &a [*a]\n", "", "not valid YAML: "),
    ],
)
def test_a_file_must_be_a_mapping(tmp_path, text, where, remedy):
    keys = reported(from_yaml, tmp_path, text, "--lora_r", "x")
    assert keys.keys() == {"config", "--lora_r"}  # and no problem about keys that the file may contain
    assert keys["config"][0] == f"{tmp_path / 'stage.yaml'}{where}"
    assert keys["config"][1].startswith(remedy)


def test_config_is_given_once(tmp_path):
    keys = reported(from_yaml, tmp_path, "model: m\n", f"--config={tmp_path / 'stage.yaml'}")
    assert keys == {"--config": ([str(tmp_path / "stage.yaml")] * 2, "given twice; keep one")}


def test_everything_wrong_is_reported_at_once(tmp_path):
    text = """
        lora_r: 16.5
        learning_rat: 1e-3
        scheduler: liner
        bf16: 'yes'
        datasets: [{path: a}, {pth: b}]
        betas: [0.9, .nan]
        dtype: fp8
        dtype: auto
        eval_steps: 5
        hub_token: [hf_abc]
        options: {api_key: 1, 1: 2}
        """
    with pytest.raises(ConfigError) as caught:
        from_yaml(tmp_path, text.replace("        ", ""), "--max_steps", "--learn", "1", "--packing", "2")
    error = caught.value
    assert [problem.key for problem in error.problems] == [
        "--max_steps",
        "dtype",
        "lora_r",
        "learning_rat",
        "scheduler",
        "bf16",
        "datasets[1].pth",
        "datasets[1].path",
        "betas[1]",
        "hub_token",
        "options.1",
        "--learn",
        "--packing",
        "model",
    ]
    headline, *lines = str(error).splitlines()
    assert headline == f"14 problems in {tmp_path / 'stage.yaml'}:"
    assert lines[2] == "  lora_r: 16.5 -> expected integer"
    assert lines[-1] == "  model: missing -> required; set it in the YAML or pass --model"
    assert "hf_abc" not in str(error)
    assert "hub_token: '***'" in str(error)


def test_contradictions_are_reported_with_other_problems_unless_caused_by_them(tmp_path):
    both = reported(from_yaml, tmp_path, "model: m\neval_steps: 5\nlora_r: x\n")
    assert both.keys() == {"eval_steps", "lora_r"}
    one = reported(from_yaml, tmp_path, "model: m\neval_steps: 5\neval_strategy: stps\n")
    assert one.keys() == {"eval_strategy"}
    typo = reported(from_yaml, tmp_path, "model: m\neval_steps: 5\neval_strateg: steps\n")
    assert typo.keys() == {"eval_strateg"}


def test_load_config(tmp_path):
    assert load_config(Stage, {"model": "m", "datasets": [Source("a")]}, lora_r=4).lora_r == 4
    assert load_config(Stage, {}, model=tmp_path).model == str(tmp_path)
    assert reported(load_config, Stage, {"lora_r": "4"}).keys() == {"lora_r", "model"}
    path = tmp_path / "stage.yaml"
    path.write_text("model: m\n")
    assert load_config(Stage, path, contradictions, lora_r=4) == load_config(Stage, str(path), lora_r=4)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("hub_token", "s3cret", "'***'"),
        (
            "options",
            {"WANDB_API_KEY": "s3cret", "a": [{"password": 1}]},
            "{'WANDB_API_KEY': '***', 'a': [{'password': '***'}]}",
        ),
        ("max_new_tokens", 5, "5"),
        ("pad_token", "</s>", "'</s>'"),
        ("tokenizer", "gpt2", "'gpt2'"),
    ],
)
def test_secrets_are_masked(key, value, shown):
    assert str(Problem(key, value, "so")) == f"{key}: {shown} -> so"


def test_both_ends_of_a_long_value_are_shown():
    shown = str(Problem("datasets", "/data" * 30 + "/rows.jsonl", "no such file"))
    assert len(shown) < 120
    assert shown.startswith("datasets: '/data/data") and shown.endswith("/rows.jsonl' -> no such file")


def test_a_wrong_key_in_json_on_the_command_line_is_named():
    datasets = '[{"path": "a.jsonl", "ranking": true}]'
    argv = ["--output_dir", "out", "--model_name_or_path", "gpt2", "--datasets", datasets]
    with pytest.raises(ConfigError) as error:
        parse(SFTConfig, argv, "hfkit sft", "")
    assert [problem.key for problem in error.value.problems] == ["--datasets[0].ranking"]
