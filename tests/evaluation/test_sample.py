"""`hfkit sample`: several responses to each prompt, as rows that the stages read."""

import json
import time

import numpy as np
import pytest
from forks import Fork

from hfkit.cli import main
from hfkit.config.evaluation import SampleConfig
from hfkit.config.parsing import load_config
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.core.files import read_json_mapping
from hfkit.evaluation.answers import answer_extractor
from hfkit.evaluation.checks import problems_of
from hfkit.evaluation.sample import sample
from hfkit.evaluation.sampled_rows import best_rows, rankings_of
from hfkit.models.reward_model import load_reward

SMALL = {"response_length": 6, "per_device_eval_batch_size": 4, "num_samples": 3}


@pytest.fixture
def config(data, base_dir, tmp_path):
    """config(**changes): a small sampling of the base model."""

    def make(**changes) -> SampleConfig:
        values = {"models": [f"base={base_dir}"], "prompts": str(data / "prompts.jsonl")}
        values |= {**SMALL, "output_dir": str(tmp_path / "samples"), **changes}
        return load_config(SampleConfig, values, problems_of)

    return make


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompt_of(row: dict) -> list[dict]:
    """The turns of a row's prompt."""
    turns = row["messages"][:-1] if "messages" in row else row["prompt"]
    return [{"role": "user", "content": turns}] if isinstance(turns, str) else turns


def response_of(row: dict) -> str:
    return row["messages"][-1]["content"] if "messages" in row else row["response"]


def test_samples_are_rankings_without_ranks(config, tmp_path):
    result = sample(config(max_prompts=5))
    rows = rows_of(tmp_path / "samples" / "samples.jsonl")
    counts = result["counts"]
    assert counts["prompts"] == 5 and counts["responses"] == 15
    assert len(rows) == 5 - counts["prompts_without_a_choice"]
    assert all(len(set(row["replies"])) == len(row["replies"]) >= 2 and "scores" not in row for row in rows)
    assert sum(len(row["replies"]) for row in rows) <= 15 - counts["empty"] - counts["repeated"]
    assert read_json_mapping(tmp_path / "samples" / "sample.json")["counts"] == counts


@pytest.mark.slow
def test_samples_of_another_model_do_not_replace_those_in_the_folder(config, base_dir, sft_dir, tmp_path):
    file = tmp_path / "samples" / "samples.jsonl"
    sample(config(max_prompts=3))
    before = file.read_bytes()
    with pytest.raises(HfkitError, match=rf"has responses of base={base_dir}, .*choose another --output_dir"):
        sample(config(models=[f"sft={sft_dir}"], max_prompts=3))
    assert file.read_bytes() == before
    sample(config(models=[f"base={base_dir}", f"sft={sft_dir}"], max_prompts=3))  # more models, not another one
    assert {name for row in rows_of(file) for name in row["models"]} == {"base", "sft"}
    with pytest.raises(HfkitError, match="choose another --output_dir"):
        sample(config(max_prompts=3))


def test_samples_to_other_prompts_are_replaced_and_restored(config, tmp_path, capsys):
    file = tmp_path / "samples" / "samples.jsonl"
    sample(config(max_prompts=4))
    before, printed = file.read_bytes(), capsys.readouterr().out
    assert "written again" not in printed
    sample(config(max_prompts=2))
    assert "is written again, for other prompts" in capsys.readouterr().out
    assert file.read_bytes() != before
    sample(config(max_prompts=4))
    assert file.read_bytes() == before


def test_scores_are_those_of_the_reward_model_and_train_another(config, tmp_path, reward_dir, base_dir, hfkit):
    result = sample(config(reward_model=str(reward_dir), best=True, max_prompts=16))
    folder = tmp_path / "samples"
    rows = rows_of(folder / "samples.jsonl")
    expected = load_reward(str(reward_dir)).score_sampled([rows[0]] * len(rows[0]["replies"]), rows[0]["replies"])
    assert rows[0]["scores"] == pytest.approx(expected.tolist(), abs=1e-5)
    best = {
        row["prompt"] if "prompt" in row else row["messages"][0]["content"]: row
        for row in rows_of(folder / "best.jsonl")
    }
    for row in rows:
        top = row["replies"][int(np.argmax(row["scores"]))]
        assert (
            best[row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"]].get("response", top)
            == top
        )
    curve = result["best_of_n"]
    assert [point["n"] for point in curve] == [1, 2, 3]
    assert curve[0]["score"] < curve[1]["score"] < curve[2]["score"]
    assert curve[0]["kl"] == 0 and curve[2]["kl"] == pytest.approx(np.log(3) - 2 / 3)
    assert (folder / "sample.png").is_file()
    common = ["--model_name_or_path", str(base_dir), "--max_steps", "1", "--max_length", "64"]
    hfkit("reward", "--datasets", folder / "samples.jsonl", "--output_dir", tmp_path / "reward", *common)
    hfkit("sft", "--datasets", folder / "best.jsonl", "--output_dir", tmp_path / "sft", *common)


@pytest.mark.slow
def test_models_and_temperatures_are_mixed(config, sft_dir, base_dir, tmp_path):
    models = [f"base={base_dir}", f"SFT={sft_dir}"]
    result = sample(config(models=models, temperatures=[0.5, 1.5], num_samples=2, max_prompts=6))
    assert result["counts"]["responses"] == 6 * 2 * 2
    assert {name for row in rows_of(tmp_path / "samples" / "samples.jsonl") for name in row["models"]} == {
        "base",
        "SFT",
    }
    saved = rows_of(tmp_path / "samples" / "replies.jsonl")
    assert len(saved) == 24


@pytest.mark.slow
def test_votes_have_the_majority_and_its_accuracy(config, tmp_path, data):
    turns = tmp_path / "questions.jsonl"
    turns.write_text("".join(json.dumps({"prompt": f"Is {n} even?", "response": "a"}) + "\n" for n in range(6)))
    result = sample(config(prompts=str(turns), vote="[a-z]", num_samples=5))
    votes = rows_of(tmp_path / "samples" / "votes.jsonl")
    assert [row["reference"] for row in votes] == ["a"] * 6
    assert [point["n"] for point in result["votes"]] == [1, 4]
    assert all(0 <= point["accuracy"] <= 1 and point["prompts"] == 6 for point in result["votes"])
    saved = [row["text"] for row in rows_of(tmp_path / "samples" / "replies.jsonl")]
    extract = answer_extractor("[a-z]")
    assert result["votes"][0]["accuracy"] == pytest.approx(np.mean([extract(text) == "a" for text in saved]), abs=0.15)


def test_what_a_ranking_leaves_out():
    rows = [{"prompt": "one"}, {"prompt": "two"}]
    texts = [["x", "", "x", "y"], ["z", "z", "", "z"]]
    scores = np.array([[0.0, 9.0, 0.0, 2.0], [1.0, 1.0, 9.0, 1.0]])
    rankings, counts = rankings_of(rows, texts, ["m"] * 4, scores)
    assert rankings == [{"prompt": "one", "replies": ["x", "y"], "models": ["m", "m"], "scores": [0.0, 2.0]}]
    assert counts == {"prompts": 2, "responses": 8, "empty": 2, "repeated": 3, "prompts_without_a_choice": 1}
    assert best_rows(rows, texts, scores) == [{"prompt": "one", "response": "y"}, {"prompt": "two", "response": "z"}]
    chat = [{"prompt": [{"role": "user", "content": "one"}]}, {"prompt": "two"}]
    assert [row["messages"][-2:] for row in best_rows(chat, texts, scores)] == [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        for prompt, text in (("one", "y"), ("two", "z"))
    ]


def test_extractors():
    assert answer_extractor(r"answer is (\d+)")("The answer is 3. No: the answer is 42.") == "42"
    assert answer_extractor(r"\d+")("none") is None
    assert answer_extractor("reward_functions:last_word")("It is red") == "red"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"best": True}, "reward_model"),
        ({"vote": "("}, "vote"),
        ({"vote": "nowhere:f"}, "vote"),
        ({"num_samples": 0}, "num_samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"models": []}, "models"),
        ({"models": ["/nowhere"]}, "models[0]"),
        ({"max_prompts": 0}, "max_prompts"),
    ],
)
def test_problems_are_reported_before_anything_is_loaded(config, changes, key):
    with pytest.raises(ConfigError) as error:
        config(**changes)
    assert key in [problem.key for problem in error.value.problems]


@pytest.mark.slow
def test_a_killed_command_resumes_with_the_same_responses(base_dir, reward_dir, data, tmp_path):
    words = ["sample", str(base_dir), "--prompts", str(data / "prompts.jsonl"), "-k", "4", "--response_length", "12"]
    words += ["--max_prompts", "16", "--per_device_eval_batch_size", "2", "--reward_model", str(reward_dir)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*words, "--output_dir", str(whole)]) == 0
    process = Fork("from hfkit.cli import main; main()", *words, "--output_dir", cut)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (cut / "replies.jsonl").is_file():
        time.sleep(0.02)
    process.kill()
    before = (cut / "replies.jsonl").read_bytes()
    assert 0 < len(before) < len((whole / "replies.jsonl").read_bytes())
    assert main([*words, "--output_dir", str(cut)]) == 0
    assert (cut / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
