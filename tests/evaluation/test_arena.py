"""`hfkit arena`: judges, order of the responses, ratings, and their intervals."""

import io
import json
import sys

import numpy as np
import pytest
from reward_functions import length

from hfkit.cli import main
from hfkit.config.evaluation import ArenaConfig, split_name
from hfkit.config.parsing import load_config
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.evaluation.arena import arena
from hfkit.evaluation.checks import problems_of
from hfkit.evaluation.judge_bias import inconsistency_warning, judge_bias, reward_functions_of, training_judge_warning
from hfkit.evaluation.judges import Match, Verdict, human_judge, model_judge, score_judge, verdict_of
from hfkit.evaluation.ratings import Battle, count_outcomes, fit_ratings, pair_results, rate_models
from hfkit.evaluation.replies import Subject
from hfkit.evaluation.results_file import ResultsFile

SMALL = {"response_length": 6, "per_device_eval_batch_size": 4, "resamples": 50, "diversity_prompts": 2}
SMALL |= {"diversity_samples": 2, "diversity_temperatures": [0.5, 1.0]}


FUNCTION = {"judge": "function", "reward_function": "reward_functions:length"}


@pytest.fixture
def config(data, base_dir, sft_dir, tmp_path):
    """config(**changes): a small arena of base and SFT."""

    def make(**changes) -> ArenaConfig:
        values = {"models": [f"base={base_dir}", f"SFT={sft_dir}"], "prompts": str(data / "prompts.jsonl")}
        return load_config(
            ArenaConfig, {**values, **SMALL, "output_dir": str(tmp_path / "arena"), **changes}, problems_of
        )

    return make


# Ratings


def test_ratings_of_two_are_the_logarithm_of_their_odds():
    # 75 wins and 25 losses, and the tie that is added to each pair
    high, low = fit_ratings(["a", "b"], np.array([[75, 0, 25]]))
    assert high - low == pytest.approx(400 * np.log10(75.5 / 25.5), abs=1e-6)
    assert (high + low) / 2 == pytest.approx(1000)


@pytest.mark.slow
def test_a_model_that_always_wins_has_a_finite_rating():
    ratings = rate_models(["a", "b", "c"], [Battle(p, *pair, 1.0) for p in range(20) for pair in ("ab", "ac", "bc")])
    assert [row["name"] for row in sorted(ratings, key=lambda row: -row["rating"])] == ["a", "b", "c"]
    assert all(np.isfinite([row["low"], row["high"]]).all() for row in ratings)
    assert [(row["wins"], row["ties"], row["losses"]) for row in ratings] == [(40, 0, 0), (20, 0, 20), (0, 0, 40)]


def test_a_battle_counts_the_same_from_either_side():
    there = [Battle(0, "a", "b", 1.0), Battle(1, "a", "b", 0.5)]
    back = [Battle(0, "b", "a", 0.0), Battle(1, "b", "a", 0.5)]
    assert (count_outcomes("ab", there) == count_outcomes("ab", back)).all()
    assert pair_results("ab", back) == [{"a": "a", "b": "b", "wins_a": 1, "wins_b": 0, "ties": 1}]


def test_known_strengths_are_recovered():
    truth = np.array([1100, 1000, 900])
    odds = [1 / (1 + 10 ** ((truth[j] - truth[i]) / 400)) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert fit_ratings("abc", 1e6 * np.array([[p, 0, 1 - p] for p in odds])) == pytest.approx(truth, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [50, 100, 200])
def test_intervals_cover_the_truth(gap):
    """Three models, `gap` apart, in 100 tournaments of 200 prompts: each model's interval has its true rating in 90."""
    names, truth = ["a", "b", "c"], 1000 + gap * np.array([1, 0, -1])
    random, covered = np.random.default_rng(gap), []
    odds = {(i, j): 1 / (1 + 10 ** ((truth[j] - truth[i]) / 400)) for i, j in ((0, 1), (0, 2), (1, 2))}
    for _ in range(100):
        won = {pair: random.random(200) < p for pair, p in odds.items()}
        battles = [
            Battle(prompt, names[i], names[j], float(wins[prompt]))
            for (i, j), wins in won.items()
            for prompt in range(200)
        ]
        ratings = rate_models(names, battles, resamples=500)
        covered.append([row["low"] <= true <= row["high"] for row, true in zip(ratings, truth, strict=True)])
    assert (np.sum(covered, axis=0) >= 90).all(), np.sum(covered, axis=0)


# Judges

SAME = [Match("Who?", "Ann.", "It is Bob.", {}), Match("Who?", "It is Bob.", "Ann.", {})]


def test_a_score_judges_each_reply_by_itself():
    judge = score_judge(lambda prompts, replies, columns: length(prompts, replies))
    verdicts = judge([*SAME, Match("Who?", "abc", "xyz", {})])
    assert verdicts == [Verdict(0.0), Verdict(1.0), Verdict(0.5)]


def test_a_judge_that_contradicts_itself_says_a_tie():
    assert verdict_of(1.0, 0.0) == Verdict(1.0, (1.0, 0.0))
    assert verdict_of(0.0, 1.0).result == 0
    assert verdict_of(1.0, 1.0).result == verdict_of(0.0, 0.0).result == 0.5


def test_a_language_model_is_asked_in_both_orders_and_once(sft_dir, tmp_path):
    judge = model_judge(Subject("judge", str(sft_dir)), ResultsFile(tmp_path / "verdicts"), batch_size=2)
    first, second = judge(SAME)
    assert first.firsts == second.firsts[::-1]  # the second pair is the first one turned round
    assert first.result == 1 - second.result
    silent = Subject("judge", str(sft_dir))
    again = model_judge(silent, ResultsFile(tmp_path / "verdicts"), batch_size=2)
    assert again(SAME) == [first, second]
    assert "model" not in vars(silent)


def test_bias_for_length_and_for_the_first_is_seen():
    verdicts = [Verdict(1.0, (1.0, 0.0)), Verdict(0.5, (1.0, 1.0)), Verdict(0.0, (0.0, 1.0))]
    matches = [Match("", "a longer one", "short", {}), SAME[0], Match("", "one", "two", {})]
    assert judge_bias(matches, verdicts) == {
        "longer_wins": 1,
        "decided": 1,
        "first_wins": pytest.approx(4 / 6),
        "consistent": pytest.approx(2 / 3),
    }
    assert judge_bias(SAME, [Verdict(1.0), Verdict(1.0)])["first_wins"] is None


@pytest.mark.parametrize(("consistent", "reported"), [(0.0, "100%"), (0.4, "60%"), (0.5, None), (None, None)])
def test_a_judge_that_mostly_contradicts_itself_is_warned_of(consistent, reported):
    warning = inconsistency_warning({"consistent": consistent})
    assert warning is None if reported is None else reported in warning


def test_a_person_judges_blind_and_may_stop_and_go_on(tmp_path, monkeypatch, capsys):
    matches = [Match(f"Question {n}?", f"from a {n}", f"from b {n}", {}) for n in range(4)]

    def answer(text: str):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return human_judge(ResultsFile(tmp_path / "verdicts"), seed=0)(matches)

    with pytest.raises(HfkitError, match="stopped with 2 to go"):
        answer("a\nwhat\na\nq\n")
    capsys.readouterr()
    verdicts = answer("t\nb\n")
    shown = capsys.readouterr().out
    assert "[3/4]" in shown and "[1/4]" not in shown
    assert sorted(verdict.firsts for verdict in verdicts) == [(0.0,), (0.5,), (1.0,), (1.0,)]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert human_judge(ResultsFile(tmp_path / "verdicts"), seed=0)(matches) == verdicts  # nothing more is asked
    # the response shown above is a's in some, b's in others: an answer for the first is for either
    kept = ResultsFile(tmp_path / "verdicts").known.values()
    assert {line["swapped"] for line in kept} == {True, False}


# The whole


@pytest.mark.slow
def test_a_judge_that_likes_length_ranks_by_it(config, tmp_path):
    result = arena(config(**FUNCTION))
    assert result == json.loads((tmp_path / "arena" / "arena.json").read_text())
    assert (tmp_path / "arena" / "arena.png").stat().st_size > 10_000
    assert [model["name"] for model in result["models"]] == ["base", "SFT"]
    assert result["judge"] == {"kind": "function", "name": "reward_functions:length", "warning": None}
    pair = result["pairs"][0]
    assert pair["wins_a"] + pair["wins_b"] + pair["ties"] == result["data"]["prompts"]["kept"] == 8
    longer = dict.fromkeys(("base", "SFT"), 0)
    for sample in result["samples"]:
        sizes = {name: len(reply) for name, reply in sample["replies"].items()}
        if len(set(sizes.values())) == 2:
            longer[max(sizes, key=sizes.get)] += 1
    assert (pair["wins_a"], pair["wins_b"]) == (longer["base"], longer["SFT"])
    assert {(row["model"], row["temperature"]) for row in result["diversity"]} == {
        (name, temperature) for name in ("base", "SFT") for temperature in (0.5, 1.0)
    }


def test_again_it_gives_the_same_from_what_it_has(config, tmp_path):
    result = arena(config(**FUNCTION))
    replies = (tmp_path / "arena" / "replies.jsonl").read_bytes()
    assert arena(config(**FUNCTION)) == result
    assert (tmp_path / "arena" / "replies.jsonl").read_bytes() == replies


@pytest.mark.slow
def test_responses_that_another_part_needs_too_are_not_replaced(config, tmp_path):
    """At the arena's own temperature the responses over temperatures begin with those that were judged."""
    first = arena(config(**FUNCTION, temperature=0.5))
    lines = (tmp_path / "arena" / "replies.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines)
    assert arena(config(**FUNCTION, temperature=0.5)) == first


@pytest.mark.slow
def test_a_function_gets_columns(config, rows_file):
    rows = [{"prompt": f"What does {name} like?", "wanted": "nothing"} for name in ("Ann", "Bob")]
    prompts = rows_file(rows)
    function = {"judge": "function", "reward_function": "reward_functions:is_wanted", "reward_columns": ["wanted"]}
    assert arena(config(prompts=prompts, **function))["pairs"][0]["ties"] == 2


@pytest.mark.slow
def test_the_reward_model_that_ppo_was_trained_on_judges_only_if_asked(config, sft_dir, ppo_dir, reward_dir):
    judged = {"models": [f"SFT={sft_dir}", f"PPO={ppo_dir}"], "judge": "reward", "reward_model": str(reward_dir)}
    with pytest.raises(HfkitError, match=r"PPO was trained on .*--allow_training_judge"):
        arena(config(**judged))
    result = arena(config(**judged, allow_training_judge=True))
    assert "the reward that PPO was trained on" in result["judge"]["warning"]


@pytest.mark.parametrize(
    ("settings", "trained_on"),
    [
        ({"reward_functions": ["a:f", "b:g"]}, ["b:g", "a:f"]),
        ({"reward_functions": ["a:f", "b:g"], "reward_weights": [1.0, 0.0]}, ["a:f"]),
        ({"reward_model_path": "r", "reward_functions": ["a:f"], "reward_weights": [1.0, 0.0]}, []),
        ({}, []),
    ],
)
def test_a_function_without_a_weight_trains_nothing(settings, trained_on):
    assert reward_functions_of(settings) == trained_on


def test_a_function_that_a_model_before_was_trained_on_judges_only_if_asked(tmp_path):
    """PPO on a function, merged, and trained on; the reward model's run is no longer there."""
    gone = {"role": "reward", "path": str(tmp_path / "gone"), "revision": None, "weights_sha256": None, "parents": []}
    lineage, settings = [gone], {"reward_functions": ["reward_functions:length"]}
    for name in ("ppo", "merged", "sft"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "hfkit.json").write_text(json.dumps({"stage": name, "config": settings, "lineage": lineage}))
        lineage = [{**gone, "role": "start", "path": str(folder), "parents": lineage}]
        settings = {}
    (tmp_path / "other").mkdir()
    judged = ArenaConfig(models=[str(tmp_path / "sft"), str(tmp_path / "other")], prompts=[], **FUNCTION)
    with pytest.raises(HfkitError, match=r"sft was trained on reward_functions:length"):
        training_judge_warning(judged, judged.reward_function)
    assert training_judge_warning(judged, "reward_functions:is_wanted") is None


@pytest.mark.slow
def test_a_language_model_judges(config, base_dir):
    result = arena(config(judge=str(base_dir)))
    assert result["judge"]["kind"] == "model"
    assert result["judge"]["warning"].startswith("the judge is base itself, and models favor their own responses")
    assert 0 <= result["bias"]["first_wins"] <= 1
    assert 0 <= result["bias"]["consistent"] <= 1


@pytest.mark.slow
def test_prompts_that_do_not_fit_are_counted_and_none_is_an_error(config, rows_file):
    rows = [{"prompt": "Who?"}, {"prompt": "What does Ann like? " * 40}, {"prompt": ""}]
    result = arena(config(prompts=rows_file(rows), max_prompt_length=40, **FUNCTION))
    stats = result["data"]["prompts"]
    assert stats["kept"] == 1
    assert stats["dropped"] == {"without a prompt": 1, "longer than 40 tokens": 1}
    with pytest.raises(HfkitError, match="raise max_prompt_length"):
        arena(config(prompts=rows_file(rows), max_prompt_length=2, **FUNCTION))


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"judge": "reward"}, "reward_model", "missing: judge: "),
        ({"judge": "function"}, "reward_function", "missing: judge: "),
        ({"judge": "function", "reward_function": "math:no"}, "reward_function", "AttributeError"),
        ({"judge": "human", "reward_model": "x/y"}, "reward_model", "no effect with judge: human"),
        ({"judge": "human", "reward_columns": ["a"]}, "reward_columns", "no effect with judge: human"),
        ({"judge": "no/such/judge"}, "judge", "not a Hub id"),
        ({"judge": "human", "models": []}, "models", "name two or more"),
        ({"judge": "human", "prompts": "/no.jsonl"}, "prompts[0].path", "no such file"),
        ({"judge": "human", "diversity_temperatures": [0.0]}, "diversity_temperatures", "above 0"),
        ({"judge": "human", "resamples": 0}, "resamples", "above 0"),
    ],
)
def test_problems_are_reported_by_key(config, changes, key, remedy):
    with pytest.raises(ConfigError) as error:
        config(**changes)
    reported = {problem.key: problem.remedy for problem in error.value.problems}
    assert reported.keys() == {key}
    assert remedy in reported[key]


@pytest.mark.parametrize(
    "changes",
    [
        {"judge": "human", "reward_model": "x/y"},
        {"judge": "human", "reward_columns": ["a"]},
        {"judge": "function"},
        {"judge": "reward"},
    ],
    ids=str,
)
def test_a_fault_of_the_judge_silences_what_contradicts_it(data, base_dir, sft_dir, tmp_path, changes):
    values = {"models": [f"base={base_dir}", f"SFT={sft_dir}"], "prompts": str(data / "prompts.jsonl"), **changes}
    with pytest.raises(ConfigError) as error:
        load_config(ArenaConfig, values, problems_of, output_dir=str(tmp_path / "arena"), judge=object())
    assert [problem.key for problem in error.value.problems] == ["judge"]


def test_a_reward_model_is_refused_as_contestant_and_as_asked_judge(config, reward_dir, sft_dir):
    with pytest.raises(ConfigError, match="which does not generate responses: name a language model"):
        config(models=[str(reward_dir), str(sft_dir)], judge="human")
    with pytest.raises(ConfigError, match="name a language model, or judge with it"):
        config(judge=str(reward_dir))
    with pytest.raises(ConfigError, match="which has a score head"):
        config(judge="reward", reward_model=str(sft_dir))


def test_names():
    assert split_name("PPO=runs/ppo") == ("PPO", "runs/ppo")
    assert split_name("runs/ppo/") == ("ppo", "runs/ppo/")
    assert split_name("org/model") == ("model", "org/model")
    assert split_name("runs/lr=1e-4") == ("lr=1e-4", "runs/lr=1e-4")


def test_the_command(data, base_dir, sft_dir, tmp_path, capsys):
    flags = [
        "--prompts",
        str(data / "prompts.jsonl"),
        "--judge",
        "function",
        "--reward_function",
        "reward_functions:length",
    ]
    short = ["--response_length", "4", "--diversity_samples", "1", "--resamples", "20", "--output_dir", str(tmp_path)]
    assert main(["arena", f"base={base_dir}", str(sft_dir), *flags, *short]) == 0
    shown = capsys.readouterr().out
    assert "judged by reward_functions:length" in shown
    assert "the longer response won" in shown
