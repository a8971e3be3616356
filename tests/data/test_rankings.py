"""Rankings: their pairs, the loss over them, and a step that computes each response once."""

import json
from itertools import combinations

import pytest
import torch
from quick import slow
from torch.nn.functional import logsigmoid

import hfkit
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.data.comparisons import ranking_row
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record

PROMPT = "What does Ann like?"
REPLIES = ["Ann likes red, thank you.", "Ann likes red.", "red", "blue"]
LONG = "red and blue and green and pink " * 20
ROW = {"prompt": PROMPT, "replies": REPLIES, "ranks": [1, 2, 3, 4]}
# Four responses, four with a tie, and two: 6, 5 and 1 pairs.
RANKINGS = [
    {"prompt": PROMPT, "replies": REPLIES, "scores": [2.0, 1.5, 0.25, -1.0]},
    {"prompt": "What does Bob like?", "replies": REPLIES[::-1], "scores": [0.5, 0.0, 0.5, 3.0]},
    {"prompt": "What does Cid like?", "replies": ["green", "Cid likes green."], "scores": [0.0, 1.0]},
]
ONE_STEP = {"max_steps": 1, "learning_rate": 0, "lora_dropout": 0.0, "per_device_train_batch_size": 8}
ONE_STEP |= {"test_split_size": None}


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({}, [*combinations(range(4), 2)]),
        ({"ranks": [4, 3, 2, 1]}, [(j, i) for i, j in combinations(range(4), 2)]),
        ({"ranks": [1, 1, 2, 2]}, [(0, 2), (0, 3), (1, 2), (1, 3)]),
        ({"ranks": None, "scores": [0.5, 2, 0.5, -1]}, [(1, 0), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ({"scores": [9, 8, 7, 6], "ranks": [4, 3, 2, 1]}, [*combinations(range(4), 2)]),
        ({"replies": ["red", "red", "blue"], "ranks": [1, 2, 3]}, [(0, 2), (1, 2)]),
        ({"replies": [LONG, *REPLIES[1:]]}, [(0, 1), (0, 2), (1, 2)]),
    ],
    ids=["ranks", "worst first", "ties", "scores", "scores beat ranks", "equal replies", "one too long"],
)
def test_every_pair_but_the_ties_is_kept_with_its_prompt(tokenizer, changes, pairs):
    row = ranking_row({**ROW, **changes}, tokenizer, 64)
    assert row["dropped"] == ""
    assert [*zip(row["better"], row["worse"], strict=True)] == pairs
    assert row["faults"] == ("REPLY_TOO_LONG" if LONG in changes.get("replies", []) else "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"replies": REPLIES[:1], "ranks": [1]}, "with fewer than two responses"),
        ({"replies": []}, "with fewer than two responses"),
        ({"replies": None}, "without a response"),
        ({"replies": [*REPLIES[:3], None]}, "without a response"),
        ({"ranks": [1, 2, 3]}, "with a number of ranks or scores that differs from the number of responses"),
        ({"ranks": None}, "with a number of ranks or scores that differs from the number of responses"),
        ({"ranks": [1, 2, 3, None]}, "with a rank or score that is not a number"),
        ({"ranks": [1, 2, 3, "4"]}, "with a rank or score that is not a number"),
        ({"scores": [1.0, float("nan"), 0.0, 2.0]}, "with a rank or score that is not a number"),
        ({"scores": [1.0, float("inf"), 0.0, 2.0]}, "with a rank or score that is not a number"),
        ({"ranks": [2, 2, 2, 2]}, "all tied"),
        ({"replies": ["red"] * 4}, "all tied"),
        ({"replies": [*REPLIES[:1], *[LONG] * 3]}, "with a response longer than max_length=64"),
        ({"replies": [3, 4, 5, 6]}, "neither text nor messages"),
        ({"prompt": None}, "without a prompt"),
        ({"prompt": ""}, "without a prompt"),
    ],
)
def test_a_ranking_that_teaches_nothing_is_dropped(tokenizer, changes, reason):
    assert ranking_row({**ROW, **changes}, tokenizer, 64)["dropped"].startswith(reason)


def by_hand(folder, rows: list[dict], score_margin: float = 0.0, center: float = 0.0) -> tuple[float, list[float]]:
    """Return the loss of InstructGPT's equation 1 without ties, and the margin of the better response in each pair."""
    reward = hfkit.load_reward(str(folder))
    losses, leads = [], []
    for row in rows:
        rewards = reward([row["prompt"]] * len(row["replies"]), row["replies"])
        terms = []
        for i, j in combinations(range(len(rewards)), 2):
            difference = row["scores"][i] - row["scores"][j]
            if difference == 0:
                continue
            better, worse = (rewards[i], rewards[j]) if difference > 0 else (rewards[j], rewards[i])
            lead = better - worse
            terms.append(float(-logsigmoid(lead - score_margin * abs(difference)) + center * (better + worse) ** 2))
            leads.append(float(lead))
        losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses), leads


@pytest.mark.parametrize(("score_margin", "center"), [(0.0, None), (0.5, None), slow(0.0, 0.01)])
def test_the_loss_is_instructgpts_over_all_pairs_of_each_prompt_in_one_step(
    run_stage, tmp_path, rows_file, score_margin, center
):
    changes = {**ONE_STEP, "score_margin": score_margin, "center_rewards_coefficient": center}
    folder = run_stage("reward", tmp_path / "out", datasets=rows_file(RANKINGS), **changes)
    loss, leads = by_hand(folder, RANKINGS, score_margin, center or 0.0)
    logged = read_metrics(folder)[0]
    assert logged["loss"] == pytest.approx(loss, rel=1e-4)
    assert len(leads) == 6 + 5 + 1
    assert logged["accuracy"] == pytest.approx(sum(lead > 0 for lead in leads) / 12)
    assert logged["margin"] == pytest.approx(sum(leads) / 12, rel=1e-3)


def test_each_reply_is_read_once(run_stage, tmp_path, rows_file, tokenizer):
    folder = run_stage("reward", tmp_path / "out", datasets=rows_file(RANKINGS), **ONE_STEP)
    replies = [ids for row in RANKINGS for ids in ranking_row(row, tokenizer, 64)["reply_ids"]]
    assert len(replies) == 10
    assert read_record(folder)["tokens"] == sum(map(len, replies))


def test_a_ranking_of_two_is_a_pair(run_stage, tmp_path, data):
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    rankings = [
        {"prompt": row["prompt"], "replies": [row["rejected"], row["chosen"]], "ranks": [2, 1]} for row in pairs
    ]
    (tmp_path / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rankings))
    changes = {"lora_dropout": 0.0, "max_steps": 3}
    asked = {"pairs": {}, "rankings": {"datasets": [{"path": str(tmp_path / "rankings.jsonl")}]}}
    runs = [run_stage("reward", tmp_path / name, **changes, **more) for name, more in asked.items()]
    one, other = (
        [(row["loss"], row["accuracy"], row["margin"]) for row in read_metrics(folder) if "loss" in row]
        for folder in runs
    )
    assert one == [pytest.approx(row, rel=1e-4) for row in other]
    records = [read_record(folder)["metrics"] for folder in runs]
    assert records[0] == pytest.approx(records[1], rel=1e-3)


def test_rankings_are_learned_and_measured_on_pairs(run_stage, tmp_path, rows_file, data, capsys):
    rows = [{"prompt": f"What does {name} like?", "replies": REPLIES, "ranks": [1, 2, 3, 4]} for name in "ABCDEFGH"]
    changes = {"max_steps": 20, "test_split_size": None, "eval_datasets": [{"path": str(data / "pairs.jsonl")}]}
    folder = run_stage("reward", tmp_path / "out", datasets=rows_file(rows), **changes)
    assert read_record(folder)["metrics"]["eval_accuracy"] >= 0.95
    assert "8 rankings with 48 pairs" in capsys.readouterr().out


@pytest.mark.slow
def test_pairs_are_learned_and_measured_on_rankings(run_stage, tmp_path, rows_file):
    rows = [{"prompt": f"What does {name} like?", "replies": REPLIES[::3], "scores": [2, 1]} for name in "ABCDEFGH"]
    rows[0] |= {"replies": REPLIES, "scores": [4, 3, 2, 1]}
    changes = {"max_steps": 20, "test_split_size": None, "eval_datasets": rows_file(rows)}
    record = read_record(run_stage("reward", tmp_path / "out", **changes))
    assert (record["data"]["test"]["kept"], record["data"]["test"]["dropped"]) == (8, {})
    assert record["metrics"]["eval_accuracy"] >= 0.5
    assert record["metrics"]["eval_accuracy"] * 13 % 1 in (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_the_margin_of_a_pair_is_subtracted_in_the_loss(run_stage, tmp_path, rows_file):
    rows = [
        {"prompt": PROMPT, "chosen": REPLIES[0], "rejected": REPLIES[3], "margin": 2.0},
        {"prompt": PROMPT, "chosen": REPLIES[1], "rejected": REPLIES[2], "margin": None},
    ]
    folder = run_stage("reward", tmp_path / "out", datasets=rows_file(rows), **ONE_STEP)
    rewards = hfkit.load_reward(str(folder))([PROMPT] * 4, REPLIES)
    leads = torch.stack([rewards[0] - rewards[3] - 2.0, rewards[1] - rewards[2]])
    assert read_metrics(folder)[0]["loss"] == pytest.approx(float(-logsigmoid(leads).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("row", "changes", "reported"),
    [
        ({"prompt": PROMPT, "replies": REPLIES}, {}, "rankings need the columns prompt, replies, and ranks or scores"),
        ({"replies": REPLIES, "ranks": [1, 2, 3, 4]}, {}, "rankings need the columns prompt"),
        (ROW, {"score_margin": 1.0}, "score_margin: 1 needs rankings with scores"),
        ({"prompt": PROMPT, "chosen": "a", "rejected": "b"}, {"score_margin": 1.0}, "for pairs, use the column"),
        ({**ROW, "ranks": [1, 2, 3]}, {}, "30 with a number of ranks or scores that differs"),
        ({**ROW, "replies": REPLIES[:1], "ranks": [1]}, {}, "30 with fewer than two responses"),
        ({**ROW, "ranks": [1, 1, 1, 1]}, {}, "30 all tied"),
        ({**ROW, "ranks": "1234"}, {}, "'ranks' holds string, expected numbers"),
        (
            {"prompt": PROMPT, "chosen": "a", "rejected": "b", "margin": 1e999},
            {},
            "30 with a margin that is not",
        ),
    ],
)
def test_rankings_that_cannot_be_read_are_reported_before_the_folder_is_made(
    run_stage, tmp_path, rows_file, row, changes, reported
):
    with pytest.raises(HfkitError, match=reported):
        run_stage("reward", tmp_path / "out", datasets=rows_file([row] * 30), test_split_size=None, **changes)
    assert not (tmp_path / "out").exists()


def test_a_negative_score_margin_is_refused(config_of, tmp_path):
    with pytest.raises(ConfigError, match="score_margin"):
        config_of("reward", tmp_path, score_margin=-1.0)
