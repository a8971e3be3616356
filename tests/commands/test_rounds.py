"""Pipelines with rounds: sample, label, reward model on the labels of all rounds, RL from the last policy."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import TINY, python_path
from label_pages import URL, Labeler
from rounds_pipelines import ROUNDS, TESTS, write_rounds
from safetensors.torch import load_file, save_file

from hfkit.commands.report.main import write_report
from hfkit.commands.rounds.plan import plan_rounds
from hfkit.commands.run import run as run_pipeline
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.core.files import read_json_mapping
from hfkit.records.record import read_record, weights_hash
from hfkit.stages.pipeline_file import read_pipeline


@pytest.fixture(scope="module")
def done(tmp_path_factory, data, sft_dir):
    """The file of a pipeline with two rounds and the folder of its runs, run once."""
    path = write_rounds(tmp_path_factory.mktemp("rounds"), data, sft_dir)
    return path, run_pipeline(path)


def modification_times(root: Path) -> dict:
    files = (path for stage in ("reward", "ppo") for path in root.glob(f"round_*/{stage}/**/*"))
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files if path.is_file()}


def test_each_round_starts_from_the_policy_of_the_last_and_from_its_own_reward_model(done, sft_dir):
    _, root = done
    starts = {
        (number, stage): [
            (one["path"], one["weights_sha256"]) for one in read_record(root / f"round_{number}" / stage)["lineage"]
        ]
        for number in (1, 2)
        for stage in ("reward", "ppo")
    }
    made = {
        path: (str(path), weights_hash(path))
        for path in [sft_dir, *root.glob("round_*/reward"), *root.glob("round_*/ppo")]
    }
    first, second = root / "round_1", root / "round_2"
    assert starts[1, "reward"] == starts[2, "reward"] == [made[sft_dir]]
    assert starts[1, "ppo"] == [made[sft_dir], made[first / "reward"]]
    assert starts[2, "ppo"] == [made[first / "ppo"], made[second / "reward"]]


def test_a_reward_model_trains_on_the_labels_of_all_rounds_so_far(done):
    _, root = done
    labels = [str(root / f"round_{number}" / "labels" / "rankings.jsonl") for number in (1, 2)]
    assert all(Path(file).read_text().strip() for file in labels)
    for number in (1, 2):
        config = read_record(root / f"round_{number}" / "reward")["config"]
        assert [entry["path"] for entry in config["datasets"]] == labels[:number]


def test_responses_of_a_round_are_sampled_from_the_policy_before(done, sft_dir):
    _, root = done
    for number, policy in ((1, sft_dir), (2, root / "round_1" / "ppo")):
        settings = read_json_mapping(root / f"round_{number}" / "samples" / "sample.json")["settings"]
        assert settings["models"] == [f"policy={policy}"]
        rows = (root / f"round_{number}" / "samples" / "samples.jsonl").read_text().splitlines()
        assert all(2 <= len(json.loads(row)["replies"]) <= ROUNDS["num_samples"] for row in rows)


def test_the_results_hold_what_the_judge_measured_on_the_first_policy_and_after_each_round(done):
    _, root = done
    rounds = read_json_mapping(root / "rounds.json")["rounds"]
    assert [one["name"] for one in rounds] == ["SFT", "round 1", "round 2"]
    for one in rounds:
        assert one["score_low"] <= one["score"] <= one["score_high"]
    for one in rounds[1:]:
        assert 0 <= one["win_rate"] <= 1 and 0 <= one["reward_accuracy"] <= 1
        assert one["kl_low"] <= one["kl"] <= one["kl_high"]
        assert one["counts"]["rankings"] > 0
    assert (root / "rounds.png").stat().st_size > 0


@pytest.mark.slow
def test_the_report_has_a_column_for_each_policy_and_the_runs_of_each_round(done):
    _, root = done
    page = write_report(root).read_text()
    section = page.partition('<section id="rounds">')[2].partition("</section>")[0]
    for name in ("SFT", "round 1", "round 2"):
        assert f">{name}</th>" in section
    scores = [f"{one['score']:.3f}" for one in read_json_mapping(root / "rounds.json")["rounds"]]
    assert all(score in section for score in scores)
    for name in ("PPO (round 1)", "PPO (round 2)", "Reward model (round 2)"):
        assert f"{name}: done" in page
    assert "reward from Reward model (round 2)" in " ".join(page.split())
    shutil.rmtree(root / "report")
    (root / "report.html").unlink()


@pytest.mark.slow
def test_people_label_on_a_page_and_the_pipeline_goes_on(tmp_path, data, sft_dir):
    rounds = {"count": 1, "max_prompts": 3, "judge": "human", "reward_function": None, "port": 0, "evaluate": {}}
    path, output = write_rounds(tmp_path, data, sft_dir, rounds), tmp_path / "printed"
    environment = {**os.environ, "PYTHONPATH": python_path(TESTS.parent)}
    with output.open("w") as file:
        command = [sys.executable, "-m", "hfkit.cli", "run", str(path)]
        running = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    latest = time.monotonic() + 240
    while not (found := URL.search(output.read_text())):
        assert running.poll() is None and time.monotonic() < latest, output.read_text()
        time.sleep(0.1)
    labeler = Labeler(found[0], "Ada")
    answer = labeler.next()
    while row := answer["row"]:
        answer = labeler.judge(row)
    assert running.wait(240) == 0, output.read_text()
    root = tmp_path / "runs"
    assert read_json_mapping(root / "round_1" / "labels" / "labels.json")["labelers"][0]["name"] == "Ada"
    assert read_record(root / "round_1" / "ppo")["status"] == "done"


@pytest.mark.slow
def test_changed_labels_are_refused_by_the_stage_that_trained_on_them_and_unchanged_ones_are_skipped(done, capsys):
    path, root = done
    before, events = modification_times(root), root / "round_1" / "labels" / "judgements.jsonl"
    given = events.read_text()
    rows = [json.loads(line) for line in given.splitlines()]
    for row in rows:
        row["ranks"] = [1 + max(row["ranks"]) - rank for rank in row["ranks"]]
    events.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(HfkitError, match="round_1/reward"):
        run_pipeline(path)
    events.write_text(given)
    capsys.readouterr()
    run_pipeline(path)  # with the labels of before, nothing is stale
    assert capsys.readouterr().out.count("already done") == 4
    assert modification_times(root) == before


def files_in(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("flags", "rounds", "key", "before"),
    [
        (["--rounds.temperature", "0.5"], {}, "rounds.temperature", "1.0"),
        (["--rounds.num_samples", "2"], {}, "rounds.num_samples", "3"),
        (["--rounds.max_prompts", "4"], {}, "rounds.max_prompts", "6"),
        (["--ppo.response_length", "5"], {}, "ppo.response_length", "8"),
        (["--ppo.seed", "7"], {}, "ppo.seed", "42"),
        ([], {"prompts": ["other.jsonl"]}, "rounds.prompts", "prompts.jsonl"),
        ([], {"reward_function": "other.py:length"}, "rounds.reward_function", "reward_functions.py:length"),
        ([], {"judge": "human", "reward_function": None, "port": 0}, "rounds.judge", "function"),
    ],
)
def test_a_changed_key_of_samples_or_labels_is_refused_before_anything_is_written(
    done, tmp_path, data, sft_dir, flags, rounds, key, before
):
    _, root = done
    shutil.copy(data / "prompts.jsonl", tmp_path / "other.jsonl")
    shutil.copy(TESTS / "reward_functions.py", tmp_path / "other.py")
    kept = files_in(root)
    with pytest.raises(ConfigError) as raised:
        run_pipeline(write_rounds(tmp_path, data, sft_dir, rounds), str(root), flags)
    assert files_in(root) == kept
    (problem,) = [problem for problem in raised.value.problems if problem.key == key]
    assert before in problem.remedy and str(root / "round_1") in problem.remedy and "output_dir" in problem.remedy


@pytest.fixture(scope="module")
def single(tmp_path_factory, data, sft_dir):
    """The file of a pipeline with one round and the folder of its runs: separate prompts, pairs for it alone, RLOO."""
    folder = tmp_path_factory.mktemp("single")
    prompts = shutil.copy(data / "prompts.jsonl", folder / "prompts.jsonl")
    rounds = {"count": 1, "prompts": [str(prompts)], "evaluate": {}}
    path = write_rounds(folder, data, sft_dir, rounds, reward={"datasets": [str(data / "pairs.jsonl")]})
    content = yaml.safe_load(path.read_text())
    del content["stages"]["ppo"]
    content["stages"]["rloo"] = {"model_name_or_path": str(sft_dir), **TINY["rloo"][1], "datasets": [str(prompts)]}
    path.write_text(yaml.safe_dump(content))
    return path, run_pipeline(path)


@pytest.mark.slow
def test_other_rows_in_the_file_of_the_prompts_are_refused_before_anything_is_written(single):
    path, root = single
    prompts, kept = path.parent / "prompts.jsonl", files_in(root)
    given = prompts.read_text()
    prompts.write_text('{"prompt": "What else?"}\n' + given)
    with pytest.raises(HfkitError, match="round_1/samples"):
        run_pipeline(path)
    prompts.write_text(given)
    assert files_in(root) == kept


@pytest.mark.slow
def test_a_judge_whose_weights_changed_judges_no_round_again(tmp_path, data, sft_dir, reward_dir):
    judge = tmp_path / "judge"
    shutil.copytree(reward_dir, judge)
    rounds = {"count": 1, "judge": "reward", "reward_model": str(judge), "reward_function": None, "evaluate": {}}
    path = write_rounds(tmp_path, data, sft_dir, rounds)
    labels = run_pipeline(path) / "round_1" / "labels" / "judgements.jsonl"
    before = labels.read_bytes()
    head = next(judge.glob("*.safetensors"))
    tensors = {name: -tensor for name, tensor in load_file(head).items()}
    save_file(tensors, head, {"format": "pt"})
    run_pipeline(path)
    assert labels.read_bytes() == before


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(done, tmp_path):
    """SIGKILL after the first reward model, and again after the second round's labels."""
    path, whole = done
    root = tmp_path / "runs"
    command = [sys.executable, "-m", "hfkit.cli", "run", str(path), "--output_dir", str(root)]
    environment = {**os.environ, "PYTHONPATH": python_path(TESTS.parent)}
    for file in ("round_1/reward/hfkit.json", "round_2/labels/labels.json"):
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        latest = time.monotonic() + 240
        while not (root / file).exists():
            assert running.poll() is None and time.monotonic() < latest
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    run_pipeline(path, str(root))
    for number in (1, 2):
        ours, theirs = (one / f"round_{number}" for one in (root, whole))
        assert (ours / "labels" / "rankings.jsonl").read_text() == (theirs / "labels" / "rankings.jsonl").read_text()
        assert [weights_hash(ours / stage) for stage in ("reward", "ppo")] == [
            weights_hash(theirs / stage) for stage in ("reward", "ppo")
        ]


def test_labels_become_pairs_after_pairs_of_the_reward_models_own(single, data):
    pairs, (_, root) = str(data / "pairs.jsonl"), single
    config = read_record(root / "round_1" / "reward")["config"]
    assert [entry["path"] for entry in config["datasets"]] == [pairs, str(root / "round_1" / "labels" / "pairs.jsonl")]
    rows = [json.loads(line) for line in (root / "round_1" / "labels" / "pairs.jsonl").read_text().splitlines()]
    assert rows and all(len(row["chosen"]) > len(row["rejected"]) for row in rows)  # the judge scores the length
    assert "score" not in read_json_mapping(root / "rounds.json")["rounds"][1]


def test_rounds_run_whichever_stage_samples_responses(single, sft_dir):
    _, root = single
    starts = [one["path"] for one in read_record(root / "round_1" / "rloo")["lineage"]]
    assert starts == [str(sft_dir), str(root / "round_1" / "reward")]


@pytest.mark.slow
def test_a_third_round_continues_two(done):
    path, root = done
    before = modification_times(root)
    run_pipeline(path, flags=["--rounds.count", "3"])
    after = modification_times(root)
    assert {name: after[name] for name in before} == before
    assert read_record(root / "round_3" / "ppo")["lineage"][0]["path"] == str(root / "round_2" / "ppo")
    assert len(read_json_mapping(root / "rounds.json")["rounds"]) == 4
    shutil.rmtree(root / "round_3")


def test_a_reward_model_that_judges_scores_the_responses_once(tmp_path, data, sft_dir, reward_dir):
    """As the judge, and not when they are sampled too."""
    judge = {"judge": "reward", "reward_model": str(reward_dir), "reward_function": None}
    path = write_rounds(tmp_path, data, sft_dir, judge)
    plan = plan_rounds(read_pipeline(path), tmp_path / "runs", [])
    assert (plan.label.reward_model, plan.sample.reward_model) == (str(reward_dir), None)
