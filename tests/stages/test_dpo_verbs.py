"""What plan, evaluate and merge make of pairs, on runs of DPO; the other verbs are in `test_siblings.py`."""

import json
import shutil

import pytest
import yaml
from conftest import TINY

from hfkit.cli import main
from hfkit.core.files import read_json_mapping
from hfkit.records.record import read_record


@pytest.fixture(scope="module")
def run(run_stage, tmp_path_factory):
    return run_stage("dpo", tmp_path_factory.mktemp("dpo") / "dpo")


def test_plan_counts_two_replies_a_pair(hfkit, data, sft_dir, tmp_path):
    _, settings, _ = TINY["dpo"]
    values = {"datasets": [{"path": str(data / "pairs.jsonl")}], "model_name_or_path": str(sft_dir), **settings}
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump({**values, "output_dir": str(tmp_path / "run")}))
    planned = hfkit("plan", tmp_path / "dpo.yaml", "--memory", "8")
    assert "3,072" in planned  # 6 steps of 4 pairs of 2 times 64 tokens


def test_evaluate_measures_the_implicit_rewards_of_the_held_out_pairs_as_in_training(run, hfkit, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    printed = hfkit("evaluate", folder, "--max_prompts", "2", "--response_length", "4")
    assert "8 held-out rows" in printed and "accuracy" in printed
    metrics, trained = read_json_mapping(folder / "evaluation.json")["metrics"], read_record(folder)["metrics"]
    assert metrics["accuracy"] == trained["eval_accuracy"]
    assert metrics["margin"] == pytest.approx(trained["eval_margin"], abs=1e-5)
    assert metrics["loss"] > 0 and "kl" in metrics
    assert "| `margin` |" in (folder / "README.md").read_text().split("Evaluated on")[1]


@pytest.mark.slow
def test_evaluate_reads_rankings_too(run_stage, rows_file, hfkit, tmp_path):
    replies = [
        {"prompt": f"Who is {n}?", "replies": [f"Ann {n}.", "Bob.", "Cid."], "ranks": [1, 2, 3]} for n in range(9)
    ]
    settings = {"datasets": rows_file(replies), "test_split_size": 3, "max_steps": 1}
    folder = run_stage("dpo", tmp_path / "run", **settings)
    hfkit("evaluate", folder, "--max_prompts", "2", "--response_length", "4")
    metrics, trained = read_json_mapping(folder / "evaluation.json")["metrics"], read_record(folder)["metrics"]
    assert metrics["margin"] == pytest.approx(trained["eval_margin"], abs=1e-5)


@pytest.mark.slow
def test_evaluate_says_that_the_reference_has_changed(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    record = read_record(folder)
    start = next(parent for parent in record["lineage"] if parent["role"] == "start")
    start["weights_sha256"] = "0" * 64
    (folder / "hfkit.json").write_text(json.dumps(record))
    assert main(["evaluate", str(folder), "--max_prompts", "2", "--response_length", "4"]) == 0
    assert "no KL of run to" in capsys.readouterr().err
    assert {"kl", "accuracy"}.isdisjoint(read_json_mapping(folder / "evaluation.json")["metrics"])


@pytest.mark.slow
def test_merge_compares_the_loss_of_the_chosen_replies(run_stage, hfkit, tmp_path):
    folder = run_stage("dpo", tmp_path / "run", load_in_4bit=True, max_steps=1)
    hfkit("merge", folder, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    metrics = read_record(tmp_path / "merged")["metrics"]
    assert metrics["eval_perplexity_ratio"] == pytest.approx(1, abs=0.05)
