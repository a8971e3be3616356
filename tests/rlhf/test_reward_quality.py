"""Before PPO: the reward model's accuracy is reported, one too low fails, and worthless responses are scored."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from hfkit.core.errors import ConfigError
from hfkit.core.files import write_json
from hfkit.data.comparisons import as_pairs
from hfkit.metrics.preference import metrics_of_rewards
from hfkit.metrics.reward_probes import REMEDIES, make_worthless_replies, probe_warnings, run_probes
from hfkit.records.record import read_record
from hfkit.rlhf.reward_quality import recorded_pair_metrics

END = 0
REPLIES = [[5, 6, 7, 8, END], [9, 9, END], [4, 3, 2]]


def with_metrics(reward_dir, tmp_path, **metrics) -> str:
    """The reward model with other figures in its record."""
    folder = tmp_path / "reward"
    folder.mkdir()
    for file in reward_dir.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    (folder / "hfkit.json").unlink()
    write_json(folder / "hfkit.json", {**read_record(reward_dir), **metrics})
    return str(folder)


def test_pairs_of_one_ranking_are_drawn_together_for_the_interval():
    """Twenty rankings, each right in all of its six pairs or in none: there are twenty figures, and not 120."""
    right = np.repeat(np.arange(20) % 2, 6)
    ids = {"chosen_ids": [[1, 2]] * 120, "rejected_ids": [[1]] * 120}
    widths = []
    for ranking in (np.arange(120), np.arange(120) // 6):
        pairs = Dataset.from_dict({**ids, "ranking": ranking})
        figures = metrics_of_rewards(right - 0.5, np.zeros(120), pairs)
        assert figures["accuracy"] == 0.5
        widths.append(figures["accuracy_high"] - figures["accuracy_low"])
    assert widths[1] == pytest.approx(widths[0] * 6**0.5, rel=0.25)


def test_rankings_and_the_pairs_in_them_have_the_same_figures():
    rankings = {"reply_ids": [[[1] * 3, [1], [1] * 2], [[2] * 4, [2] * 9]], "better": [[0, 0, 1], [1]]}
    rankings = Dataset.from_dict({**rankings, "worse": [[1, 2, 2], [0]]}).select([1, 0])
    rankings = rankings.add_column("spans", [[[0, 4], [0, 9]], [[0, 3], [0, 1], [0, 2]]])
    features = dict.fromkeys(("reply_ids", "spans"), List(List(Value("int32"))))
    features |= dict.fromkeys(("better", "worse"), List(Value("int32")))
    rewards = np.array([0.5, -0.25, 1.0, 2.0]), np.zeros(4)
    figures = metrics_of_rewards(*rewards, rankings)
    assert figures == metrics_of_rewards(*rewards, as_pairs(rankings.cast(Features(features))))
    assert (figures["longer_chosen"], figures["accuracy_chosen_longer"]) == (0.75, pytest.approx(2 / 3))


def test_the_reward_stage_records_the_metrics_that_are_read(reward_dir):
    figures = recorded_pair_metrics(str(reward_dir))
    assert 0 <= figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"] <= 1
    # every chosen response is longer than the colour that is rejected
    assert figures["longer_chosen"] == 1
    assert figures["longer_preferred"] == figures["accuracy_chosen_longer"] == figures["accuracy"]


@pytest.mark.parametrize(
    ("metrics", "remedy"),
    [
        ({"eval_accuracy": 0.62}, "ranks 0.620 of the held-out pairs right"),
        ({}, "is unknown how well .*: run `hfkit evaluate"),
    ],
)
def test_a_reward_model_that_is_not_good_enough_is_refused(config_of, reward_dir, tmp_path, metrics, remedy):
    path = with_metrics(reward_dir, tmp_path, metrics=metrics)
    config_of("ppo", tmp_path / "out", reward_model_path=path)
    with pytest.raises(ConfigError, match=remedy):
        config_of("ppo", tmp_path / "out", reward_model_path=path, min_reward_accuracy=0.7)


def test_the_figure_has_no_effect_without_a_reward_model(config_of, tmp_path):
    functions = {"reward_model_path": None, "reward_functions": ["reward_functions:length"]}
    with pytest.raises(ConfigError, match="no effect without reward_model_path"):
        config_of("ppo", tmp_path, min_reward_accuracy=0.7, **functions)


def test_what_evaluate_measured_is_what_counts(config_of, reward_dir, tmp_path):
    path = with_metrics(reward_dir, tmp_path, evaluation={"metrics": {"accuracy": 0.9}})
    assert recorded_pair_metrics(path) == {"accuracy": 0.9}
    config_of("ppo", tmp_path / "out", reward_model_path=path, min_reward_accuracy=0.85)


@pytest.mark.parametrize(("rows", "accuracy"), [(3, 0.62), (4, 0.9), (5, 0.9)])
def test_the_measurement_on_the_most_rows_counts(config_of, reward_dir, tmp_path, rows, accuracy):
    evaluation = {"metrics": {"accuracy": 0.9}, "data": {"test": {"kept": rows}}}
    trained = {"metrics": {"eval_accuracy": 0.62}, "data": {"test": {"kept": 4}}}
    assert recorded_pair_metrics(with_metrics(reward_dir, tmp_path, **trained, evaluation=evaluation)) == {
        "accuracy": accuracy
    }


def test_worthless_replies():
    kinds = make_worthless_replies(REPLIES, END)
    assert kinds.keys() == {"real", *REMEDIES}
    assert kinds["empty"] == [[END]] * 3
    assert kinds["repeated"][0] == [5, 6, 5, 6, END]
    assert kinds["truncated"] == [[5, 6], [9], [4, 3]]
    assert kinds["off-topic"] == [REPLIES[1], REPLIES[2], REPLIES[0]]


def test_a_reward_for_brevity_is_seen_through_and_an_honest_one_passes():
    brief = run_probes(lambda replies: [-len(reply) for reply in replies], REPLIES, END)
    assert brief["empty"] == {"mean": -1, "beats_real": 1}
    assert [sign.split()[0] for sign in probe_warnings(brief)] == ["empty", "truncated"]
    honest = run_probes(lambda replies: [float(a == b) for a, b in zip(replies, REPLIES, strict=True)], REPLIES, END)
    assert honest["real"]["mean"] == 1
    assert probe_warnings(honest) == []


def test_ppo_reports_and_records_it(run_stage, reward_dir, tmp_path, capsys):
    path = with_metrics(reward_dir, tmp_path, metrics={"eval_accuracy": 0.5, "eval_accuracy_low": 0.3})
    folder = run_stage("ppo", tmp_path / "out", reward_model_path=path)
    shown = capsys.readouterr()
    assert "may be no better than chance on held-out pairs (accuracy 0.500, 0.300 to 0.500)" in shown.err
    assert "off-topic" in shown.out
    probes = json.loads((folder / "hfkit.json").read_text())["reward_probes"]
    assert probes.keys() == {"real", *REMEDIES}
    reported = {line.split()[1] for line in shown.err.splitlines() if "have a mean reward of" in line}
    assert reported == {sign.split()[0] for sign in probe_warnings(probes)}
