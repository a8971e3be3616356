"""The registry: every command takes a stage that is registered, without another change of hfkit."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY
from pipelines import write_pipeline
from quick import slow
from toy_stage import TOY, ToyConfig

import hfkit as hfkit_package
from hfkit.cli import main
from hfkit.config.registry import MERGE, STAGES, register, spec_of, spec_of_config
from hfkit.config.stages import SFTConfig
from hfkit.core.files import read_json_mapping
from hfkit.records.record import read_record, weights_hash


@pytest.fixture(scope="module")
def registered():
    """The toy stage, for the tests of this file."""
    register(TOY)
    yield
    del STAGES["toy"]


@pytest.fixture(scope="module")
def toy(registered, tmp_path_factory, data):
    """A pipeline that ends with the toy stage, run once: its file, the stage's YAML, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("toy")
    rows, settings, _ = TINY["sft"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, "toy", (rows, {**settings, "loss_scale": 3.0}, {}))
        pipeline = write_pipeline(folder, data, ("tokenizer", "pretrain", "toy"))
    assert main(["run", str(pipeline)]) == 0
    return SimpleNamespace(
        pipeline=pipeline, yaml=folder / "toy.yaml", root=folder / "runs", run=folder / "runs" / "toy"
    )


def test_specs_are_found_by_name_and_by_config(registered):
    assert spec_of("toy") is TOY and spec_of("merge") is MERGE and spec_of("orpo") is spec_of(None) is None
    config = ToyConfig(model_name_or_path="base", output_dir="out")
    assert spec_of_config(config) is TOY
    assert spec_of_config(SFTConfig(model_name_or_path="base", output_dir="out")) is STAGES["sft"]
    assert spec_of_config(object()) is None
    assert [*STAGES] == ["tokenizer", "pretrain", "sft", "reward", "dpo", "ppo", "grpo", "rloo", "toy"]
    with pytest.raises(ValueError, match="the stage 'toy' is registered already"):
        register(TOY)


def test_it_is_a_verb_and_a_function_of_the_package(registered, capsys):
    assert main(["--help"]) == 0
    assert f"\n  toy         {TOY.help}\n" in capsys.readouterr().out
    assert hfkit_package.ToyConfig is ToyConfig and "toy" in dir(hfkit_package)
    assert hfkit_package.toy.__doc__.startswith("Train a toy, and return the run's folder")


def test_run_starts_it_from_the_stage_before_and_skips_it_when_it_is_done(toy, hfkit):
    record = read_record(toy.run)
    assert (record["stage"], record["status"], record["steps"]) == ("toy", "done", 6)
    assert record["config"]["loss_scale"] == 3.0
    (start,) = record["lineage"]
    assert (start["role"], start["path"], start["stage"]) == ("start", str(toy.root / "pretrain"), "pretrain")
    assert start["weights_sha256"] == weights_hash(toy.root / "pretrain")
    assert (toy.run / "adapter_model.safetensors").is_file() and (toy.run / "loss.png").is_file()
    assert f"toy: already done in {toy.run}" in hfkit("run", toy.pipeline)


def test_plan_counts_its_steps_and_its_tokens(toy, hfkit):
    row = re.compile(r"toy\W+6\W+1,536\W")  # 6 steps of 4 rows of 64 tokens
    assert row.search(hfkit("plan", toy.pipeline, "--memory", "8"))
    assert row.search(hfkit("plan", toy.yaml, "--model_name_or_path", toy.root / "pretrain"))


def test_data_check_reads_its_form_of_rows(toy, hfkit):
    printed = hfkit("data", "check", toy.yaml, "--model_name_or_path", toy.root / "pretrain")
    assert "32 rows, 32 kept" in printed and "the trained tokens are the responses" in printed


def test_the_card_says_what_its_spec_says(toy):
    card = (toy.run / "README.md").read_text()
    assert TOY.purpose in card
    assert "- toy\n" in card and "- trl\n" not in card and "pipeline_tag: text-generation" in card
    assert "apply_chat_template" in card  # it is an assistant
    assert f"- {TOY.limits}" in card


def test_a_dry_push_lists_its_files(toy, hfkit):
    printed = hfkit("push", toy.run, "ann/toy", "--dry_run", "--with_base", "ann/base")
    assert "adapter_model.safetensors" in printed and "hfkit.json" in printed and "ann/base" in printed


def test_lineage_shows_it_and_what_it_started_from(toy, hfkit):
    printed = hfkit("lineage", toy.run)
    assert printed.startswith("toy: ") and "start: " in printed and "(pretrain)" in printed
    node = json.loads(hfkit("lineage", toy.run, "--json"))
    assert (node["stage"], node["parents"][0]["stage"]) == ("toy", "pretrain")


@pytest.mark.slow
@pytest.mark.parametrize("name", [slow("root"), "run"])
def test_report_has_its_title_and_its_plot(toy, hfkit, name):
    folder = getattr(toy, name)
    hfkit("report", folder)
    page = (folder / "report.html").read_text()
    assert TOY.title in page and TOY.loss_label[1] in page and f"over 6 {TOY.step_name}" in page
    assert (folder / "report" / "toy-toy-loss.png").is_file()


def test_evaluate_measures_it_on_its_held_out_rows(toy, hfkit):
    printed = hfkit("evaluate", toy.run, "--max_prompts", "2", "--response_length", "4")
    evaluation = read_json_mapping(toy.run / "evaluation.json")
    assert "8 held-out rows" in printed
    assert evaluation["stage"] == "toy" and evaluation["metrics"]["loss"] > 0
    assert "Evaluated on 8 held-out rows" in (toy.run / "README.md").read_text()


def test_chat_answers_and_merge_makes_a_whole_model_of_it(toy, hfkit):
    assert hfkit("chat", toy.run, "--prompt", "What does Ann like?", "--length", "4")
    merged = toy.root / "merged"
    hfkit("merge", toy.run, merged)
    assert (merged / "model.safetensors").is_file()
    card = (merged / "README.md").read_text()
    assert TOY.purpose in card and "apply_chat_template" in card


GROUPS = {"stages/online.py", "stages/checks/groups.py", "rlhf/online_trainer.py", "rlhf/online_batches.py"}
OWN = {
    "dpo": {"stages/dpo.py", "stages/checks/dpo.py", "training/dpo_trainer.py"},
    "grpo": {"stages/grpo.py", "core/compat_online.py"} | GROUPS,
    "rloo": {"stages/rloo.py", "core/compat_online.py"} | GROUPS,
}
"""The modules of a method: its stage, its checks, its trainer; those of GRPO and RLOO are one family."""
CONFIGS = {
    "config/stages.py",
    "config/learning_rates.py",
    "config/registry.py",
    "rlhf/__init__.py",
    "rlhf/arguments.py",
}
"""Where a method has its config class, its learning rates, its StageSpec, and the arguments of its trainer."""


@pytest.mark.parametrize("method", OWN)
def test_no_other_module_names_a_method(method):
    named = re.compile(rf"(?<![a-z]){method}(?![a-z])|{method}(config|arguments|trainer)", re.IGNORECASE)
    package = Path(hfkit_package.__file__).parent
    naming = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(named.search(word) for word in words(path))
    }
    assert {f"stages/{method}.py", "config/registry.py"} <= naming <= OWN[method] | CONFIGS


@cache
def words(path: Path) -> list[str]:
    """Return the identifiers and strings of a module, without its docstrings."""
    text = path.read_text(encoding="utf-8")
    if not any(method in text.lower() for method in OWN):
        return []  # to parse all modules takes seconds
    tree = ast.parse(text)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.append(node.value)
        found += [
            value
            for name in ("id", "attr", "name", "module", "arg")
            if isinstance(value := getattr(node, name, None), str)
        ]
    return found
