"""Records that attack, of a model or of the models before it: no verb takes them for lineage, and each ends."""

import json
from pathlib import Path

import pytest
from hostile_models import inputs
from quick import slow

MODEL_CONFIGS = pytest.mark.hostile("model configs")
MODEL = {"role": "base", "path": "/x", "revision": None, "weights_sha256": None, "stage": "sft", "parents": []}
NESTED = '{"a":' * 100_000 + "1" + "}" * 100_000


def record(**changes) -> str:
    return json.dumps({"stage": "sft", "status": "done", **changes})


def parents(depth: int) -> list:
    """The lineage of a record that has `depth` generations."""
    entry: list = []
    for _ in range(depth):
        entry = [{**MODEL, "parents": entry}]
    return entry


RECORDS = {
    "parents without an end": (record(lineage=parents(300))[:-9], "hfkit.json"),
    "a hundred generations": (record(lineage=parents(250)), "nested more than"),
    "parents that are a text": (record(lineage=[{**MODEL, "parents": "ab"}]), "hfkit"),
    "parents that are a number": (record(lineage=[{**MODEL, "parents": 7}]), "hfkit"),
    "a path that is a number": (record(lineage=[{**MODEL, "path": 7}]), "hfkit"),
    "a lineage that is a mapping": (record(lineage={"a": 1}), "hfkit.json"),
    "a record that is nested": (NESTED, "nested more than"),
    "a record that is a list": ("[]", "not a JSON mapping"),
    "data that is a list": (record(data=[1]), "hfkit.json"),
    "a base that is a text": (record(base="x"), "hfkit.json"),
    "rows that are a text": (record(data={"train": {"rows": "x", "kept": 1, "sources": []}}), "hfkit.json"),
    "sources that are texts": (record(data={"test": {"sources": ["a", 7]}}), "hfkit.json"),
    "sources that are nothing": (record(data={"train": {"rows": 1, "kept": 1, "sources": None}}), "hfkit writes it"),
    "a base without a path": (record(base={"weights_sha256": "ab"}), "hfkit.json"),
    "a base of numbers": (record(base={"path": 5, "revision": 7, "weights_sha256": "ab"}), "hfkit.json"),
    "hashes that are numbers": (record(lineage=[{**MODEL, "weights_sha256": 5}]), "hfkit.json"),
    "a stage that is a list": (record(stage=["sft"]), "hfkit.json"),
}


@MODEL_CONFIGS
@pytest.mark.parametrize(("content", "sentence"), inputs(RECORDS))
def test_a_hostile_record_is_not_a_lineage(attack, model, content, sentence):
    (model / "hfkit.json").write_text(content)
    ran = attack("lineage", model)
    assert ran.status == 1 and sentence in ran.output, ran.output


@MODEL_CONFIGS
@pytest.mark.parametrize("verb", ["lineage", slow("report")])
@pytest.mark.parametrize("shape", ["a cycle", "doublings"])
def test_records_that_name_each_other_end(attack, tmp_path, verb, shape):
    names = [f"run{index}" for index in range(30)]
    for index, name in enumerate(names):
        (tmp_path / name).mkdir()
        after = names[(index + 1) % len(names)] if shape == "a cycle" else names[min(index + 1, len(names) - 1)]
        entry = {**MODEL, "path": str(tmp_path / after)}
        record = {"stage": "sft", "status": "done", "lineage": [entry] * (1 if shape == "a cycle" else 2)}
        Path(tmp_path / name / "hfkit.json").write_text(json.dumps(record))
    ran = attack(verb, tmp_path / "run0")
    assert ran.status in (0, 1) and "run" in ran.output, ran.output


@pytest.mark.slow
@MODEL_CONFIGS
@pytest.mark.parametrize("verb", ["chat", "evaluate", "merge", "report", "push", "sft", "export"])
@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, (content, _) in RECORDS.items()])
def test_each_verb_that_reads_a_record_ends(attack, adapter, sft, tmp_path, verb, content):
    (adapter / "hfkit.json").write_text(content)
    out = [tmp_path / "out"]
    more = {"chat": ["--prompt", "a", "--length", 2], "merge": out, "export": [*out, "--format", "vllm"]}
    more |= {"push": ["me/model"], "evaluate": ["--max_rows", 2]}
    attack(*(sft(adapter) if verb == "sft" else [verb, adapter, *more.get(verb, [])]))


@MODEL_CONFIGS
@pytest.mark.parametrize("settings", [{"load_in_4bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": [1]}])
def test_a_quantization_that_does_not_exist_is_named(attack, adapter, settings):
    (adapter / "hfkit.json").write_text(record(config=settings))
    ran = attack("chat", adapter, "--prompt", "a")
    assert ran.status == 1 and "has invalid quantization settings" in ran.output, ran.output


@MODEL_CONFIGS
@pytest.mark.parametrize(
    "line",
    [
        pytest.param('{"step": 1, "loss": ' + "9" * 4000 + "}", id="a loss of 4000 digits"),
        pytest.param('{"step": ' + "9" * 400 + ', "loss": 1}', id="a step of 400 digits"),
    ],
)
def test_metrics_that_no_run_writes_are_named(attack, tmp_path, line):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hfkit.json").write_text(record())
    (tmp_path / "run" / "metrics.jsonl").write_text(f"{line}\n" * 2)
    ran = attack("report", tmp_path / "run")
    assert ran.status == 1 and "not as hfkit writes it" in ran.output, ran.output
