"""YAML and JSON of unknown origin, in addition to the data: configs, pipelines, records, adapters, model cards."""

import json
import os
import re

import pytest

from hfkit.core.yaml import read_yaml

DATA = "datasets: [{path: rows.jsonl}]\n"
VALUES, DEPTH, BYTES = "HFKIT_MAX_YAML_VALUES", "HFKIT_MAX_DEPTH", "HFKIT_MAX_YAML_BYTES"
CODES = json.dumps({"stage": "\x1b[2J"})
OBJECTS = '{"a": ' * 500 + "1" + "}" * 500
SLOW = pytest.mark.slow
DEEP = "[" * 50_000


def bomb(levels: int = 9) -> str:
    """Return the lines of a YAML mapping in which each key holds the one before ten times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "".join(f"{line}\n" for line in lines)


def merges(levels: int = 9) -> str:
    """Return the lines of a YAML mapping in which each key merges the one before ten times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.hostile("configs")
@pytest.mark.parametrize(
    ("argv", "text", "message"),
    [
        pytest.param(["sft"], DATA + bomb(), VALUES, id="aliases"),
        pytest.param(["sft"], DATA + merges(), VALUES, id="merges", marks=SLOW),
        pytest.param(["sft"], f"{DATA}a: &a [*a]\n", "line 2 contains itself", id="alias-of-itself"),
        pytest.param(["sft"], f"{DATA}a: &a {{b: *a}}\n", "line 2 contains itself", id="mapping-of-itself", marks=SLOW),
        pytest.param(["sft"], f"{DATA}lora_target_modules: {DEEP}\n", DEPTH, id="lists-in-lists"),
        pytest.param(["sft"], f"{DATA}model_config: {'{a: ' * 50_000}\n", DEPTH, id="mappings-in-mappings", marks=SLOW),
        pytest.param(["sft"], "a:" + " -" * 50_000 + " x\n", "not valid YAML|HFKIT_MAX_DEPTH", id="dashes"),
        pytest.param(["sft"], "- " * 50_000 + "x\n", DEPTH, id="lists-of-dashes", marks=SLOW),
        pytest.param(["sft"], DATA + "# x\n" * 1_000_000, BYTES, id="long"),
        pytest.param(["sft"], f"{DATA}learning_rate: {'9' * 500_000}e\n", "learning_rate", id="digits", marks=SLOW),
        pytest.param(["sft"], f"{DATA}seed: {'9' * 500_000}\n", "not valid YAML", id="long-number", marks=SLOW),
        pytest.param(["sft"], f"{DATA}\"\\e]0;x\\a\": 1\n", r"\\x1b\]0;x", id="escape-codes-in-a-key"),
        pytest.param(["sft"], f"{DATA}model: !!python/object/apply:os.mkdir [code-has-run]\n", "YAML", id="tag"),
        pytest.param(["sft"], f"{DATA}lora_target_modules: '{'(a+)+' * 20}$'\n", "model_name_or_path", id="pattern"),
        pytest.param(["run"], f"stages: {{sft: a.yaml}}\noutput_dir: x\n{bomb()}", VALUES, id="pipeline-of-aliases"),
        pytest.param(["run"], "extends: config.yaml\noutput_dir: out\n", "extends", id="pipeline-of-itself"),
        pytest.param(["plan"], DATA + bomb(), VALUES, id="plan-of-aliases", marks=SLOW),
        pytest.param(["data", "check", "--stage", "sft"], DATA + bomb(), VALUES, id="check-of-aliases"),
    ],
)  # fmt: skip
def test_a_config_that_attacks_is_refused(attack, tmp_path, argv, text, message):
    (tmp_path / "config.yaml").write_text(text)
    ran = attack(*argv, "config.yaml", *(["--output_dir", "out"] if argv == ["sft"] else []))
    assert ran.status in (1, 2) and re.search(message, ran.output), ran
    assert len(ran.output) < 10_000


@pytest.mark.hostile("configs")
@pytest.mark.parametrize(
    ("argv", "name", "text", "message"),
    [
        pytest.param(["lineage"], "hfkit.json", DEEP, "hfkit.json", id="record-of-brackets"),
        pytest.param(["lineage"], "hfkit.json", OBJECTS, "HFKIT_MAX_FILE_DEPTH", id="record-of-objects"),
        pytest.param(["lineage"], "hfkit.json", CODES, r"\\x1b\[2J: model", id="record-of-codes"),
        pytest.param(["chat", "--prompt", "x"], "adapter_config.json", DEEP, "adapter_config.json", id="adapter"),
        pytest.param(["report"], "hfkit.json", DEEP, "hfkit.json|no run", id="report-of-brackets"),
    ],
)  # fmt: skip
def test_a_folder_whose_json_attacks_is_refused(attack, tmp_path, argv, name, text, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_text(text)
    ran = attack(argv[0], "model", *argv[1:])
    assert ran.status == (0 if text == CODES else 1) and re.search(message, ran.output), ran
    assert len(ran.output) < 10_000


@pytest.mark.hostile("configs")
@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["sft", "pipe"], id="config-that-is-a-pipe"),
        pytest.param(["run", "pipe"], id="pipeline-that-is-a-pipe"),
        pytest.param(["plan", "pipe"], id="plan-of-a-pipe"),
        pytest.param(["data", "check", "pipe"], id="check-of-a-pipe"),
    ],
)
def test_a_pipe_that_nobody_writes_to_is_refused(attack, tmp_path, argv):
    os.mkfifo(tmp_path / "pipe")
    ran = attack(*argv)
    assert ran.status == 2 and "it is a pipe: pass a regular file" in ran.output, ran


def test_a_pipe_of_the_shell_is_read():
    """As in `hfkit sft <(envsubst < sft.yaml)`."""
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        stream.write("seed: 1")
    assert read_yaml(f"/dev/fd/{reader}", []) == {"seed": 1}
    os.close(reader)


@pytest.mark.parametrize(("given", "message"), [("0", "above 0"), ("many", "above 0")])
def test_a_limit_is_a_number(attack, tmp_path, monkeypatch, given, message):
    from hfkit.core.errors import HfkitError
    from hfkit.core.limits import MAX_DEPTH, limit_of

    monkeypatch.setenv(MAX_DEPTH, given)
    with pytest.raises(HfkitError, match=f"{MAX_DEPTH}: '{given}' -> expected an integer {message}"):
        limit_of(MAX_DEPTH)
