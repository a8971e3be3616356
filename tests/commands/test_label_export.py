"""What judgements become: rankings and instructions that train, by people and by judges without a page."""

import json

import pytest
from conftest import NAMES, write_rows

from hfkit.cli import main
from hfkit.commands.label.checks import problems_of
from hfkit.commands.label.export import instructions_of, judged_ranks, ranking_of
from hfkit.commands.label.labels_file import LabelsFile, now
from hfkit.commands.label.main import judge_rows
from hfkit.commands.label.rows import Row, load_label_rows
from hfkit.commands.serve.feedback import Answered, FeedbackFile
from hfkit.config.labeling import LabelConfig
from hfkit.config.parsing import load_config
from hfkit.core.files import read_json_mapping
from hfkit.data.messages import without_nulls
from hfkit.models.reward_model import load_reward

TURN = [{"role": "user", "content": "q"}]


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def judgement(ranks, answer=None, all_bad=False) -> dict:
    return {"ranks": ranks, "answer": answer, "all_bad": all_bad}


@pytest.fixture
def config(tmp_path):
    """config(rows, **changes): a labeling of rows."""

    def make(rows: list[dict], **changes) -> LabelConfig:
        values = {"datasets": str(write_rows(tmp_path / "rows.jsonl", rows)), "output_dir": str(tmp_path / "labels")}
        return load_config(LabelConfig, {**values, **changes}, problems_of)

    return make


def samples(count: int = 8) -> list[dict]:
    """Rankings without ranks of prompts that the tiny models know."""
    return [
        {"prompt": f"What does {name} like?", "replies": [f"{name} likes red.", "red", f"{name} likes blue, thanks."]}
        for name in NAMES[:count]
    ]


@pytest.mark.parametrize(
    ("judgements", "replies", "ranks"),
    [
        ([judgement([2, 1, 3])], "abc", [2, 1, 3]),
        ([judgement([1, 1, 3])], "abc", [1, 1, 2]),
        ([judgement([1, 2, 3]), judgement([2, 1, 3])], "abc", [1, 1, 2]),
        ([judgement([1, 2, 3]), judgement([1, 2, 3]), judgement([2, 1, 3])], "abc", [1, 2, 3]),
        ([judgement([None, 2, 1])], "bc", [2, 1]),
        ([judgement([None, 1, None]), judgement([2, 1, None])], "ab", [2, 1]),
        ([judgement([2, 1, 3], "new")], ["a", "b", "c", "new"], [3, 2, 4, 1]),
        ([judgement(None, "new", all_bad=True)], ["a", "b", "c", "new"], [2, 2, 2, 1]),
        ([judgement(None, "new")], ["a", "b", "c", "new"], [2, 2, 2, 1]),
        ([judgement([2, 1, 3], "b")], "abc", [2, 1, 3]),
        ([judgement([1, 2, 3], "c")], "abc", [2, 3, 1]),
        (
            [judgement([1, 2, 3], "new"), judgement([1, 2, 3], "other")],
            ["a", "b", "c", "new", "other"],
            [2, 3, 4, 1, 1],
        ),
    ],
)
def test_rankings(judgements, replies, ranks):
    assert ranking_of(Row("p", ["a", "b", "c"]), judgements) == {
        "prompt": "p",
        "replies": [*replies],
        "ranks": ranks,
    }


@pytest.mark.parametrize(
    "judgements",
    [
        [judgement([1, 1, 1])],
        [judgement(None, all_bad=True)],
        [judgement([1, 2, 2]), judgement([2, 1, 1])],
        [judgement([1, None, None])],
    ],
)
def test_rows_without_a_better_response_are_no_rankings(judgements):
    assert ranking_of(Row("p", ["a", "b", "c"]), judgements) is None


def test_ranks_with_gaps_weigh_as_their_order():
    assert judged_ranks(judgement([1, 3, 3]), 3) == [1, 2, 2]


def test_conversations_keep_their_form():
    replies = [[{"role": "assistant", "content": text}] for text in "ab"]
    row = Row(TURN, replies, {"tools": [{"type": "function"}]})
    ranking = ranking_of(row, [judgement([2, 1], "c")])
    assert ranking["replies"] == [*replies, [{"role": "assistant", "content": "c"}]]
    assert ranking["ranks"] == [3, 2, 1] and ranking["tools"] == row.options["tools"]


def test_instructions_are_all_of_one_form():
    text, chat = Row("p", []), Row(TURN, [])
    answer = [judgement(None, "a")]
    assert instructions_of([(text, answer)]) == [{"prompt": "p", "response": "a"}]
    mixed = instructions_of([(text, answer), (chat, answer)])
    assert [[turn["content"] for turn in row["messages"]] for row in mixed] == [["p", "a"], ["q", "a"]]
    approved, rejected = Row("p", ["reply"]), Row("p", ["reply"])
    bad = [judgement([1], all_bad=True)]
    assert instructions_of([(approved, [judgement([1])]), (rejected, bad)]) == [{"prompt": "p", "response": "reply"}]


def test_a_row_is_known_by_its_content(config, tmp_path):
    rows, _ = load_label_rows(config(samples(3)))
    again, stats = load_label_rows(config([*reversed(samples(3)), samples(1)[0]]))
    assert {row.key for row in rows} == {row.key for row in again} and len(again) == 3
    assert stats.dropped == {"repeated": 1} and stats.rows == 4
    other, _ = load_label_rows(config([{"prompt": rows[0].prompt, "replies": ["other", "texts"]}]))
    assert other[0].key not in {row.key for row in rows}


def test_rows_that_cannot_be_judged_are_counted(config):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "", "chosen": "a", "rejected": "b"}]
    found, stats = load_label_rows(config([*rows, {"prompt": "p", "chosen": "a", "rejected": "a"}]))
    assert [row.replies for row in found] == [["a", "b"]]
    assert stats.dropped == {"without a prompt": 1, "with equal responses": 1}


def test_rows_with_tools_and_messages_are_shown_as_text(config):
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    rows = [{"prompt": [*TURN, call, {"role": "tool", "content": "2"}], "replies": ["two", "three"]}]
    (row,), _ = load_label_rows(config(rows))
    shown = row.shown_prompt()
    assert [turn["role"] for turn in shown] == ["user", "assistant", "tool"] and "f(" in shown[1]["content"]
    assert without_nulls(row.prompt)[0] == TURN[0]


@pytest.mark.slow
def test_exported_rows_train_a_reward_model_and_sft(config, tmp_path, base_dir, hfkit):
    rows = samples()
    given = config(rows, export=True)
    loaded, _ = load_label_rows(given)
    (tmp_path / "labels").mkdir()
    saved = LabelsFile(tmp_path / "labels" / "judgements.jsonl")
    common = {"kind": "judgement", "labeler": "Ann", "time": now(), "seconds": 2.0, "flags": [[], [], []], "note": ""}
    for number, row in enumerate(loaded):
        answer = f"{row.prompt[10:13]} likes pink." if number % 2 else None
        event = {"id": f"event-{number}", "row": row.key, "ranks": [1, 3, 2], "all_bad": False, "answer": answer}
        saved.add([event | common])
    result = judge_rows(given)
    assert result["counts"]["rankings"] == 8 and result["counts"]["instructions"] == 4
    common = ["--model_name_or_path", str(base_dir), "--max_steps", "1", "--max_length", "64"]
    folder = tmp_path / "labels"
    hfkit("reward", "--datasets", folder / "rankings.jsonl", "--output_dir", tmp_path / "reward", *common)
    hfkit("sft", "--datasets", folder / "instructions.jsonl", "--output_dir", tmp_path / "sft", *common)
    record = read_json_mapping(tmp_path / "reward" / "hfkit.json")
    assert record["data"]["train"]["kept"] == 8


def test_a_function_ranks_by_score_and_resumes(config, tmp_path):
    given = config(samples(), judge="function", reward_function="reward_functions:length")
    result = judge_rows(given)
    rankings = lines_of(tmp_path / "labels" / "rankings.jsonl")
    assert all(
        [len(reply) for _, reply in sorted(zip(row["ranks"], row["replies"], strict=True))]
        == sorted(map(len, row["replies"]), reverse=True)
        for row in rankings
    )
    assert result["counts"]["judgements"] == 8 and result["labelers"][0]["name"] == "reward_functions:length"
    events = (tmp_path / "labels" / "judgements.jsonl").read_text()
    lines = events.splitlines(keepends=True)
    (tmp_path / "labels" / "judgements.jsonl").write_text("".join(lines[:5]) + lines[5][:30])  # killed
    assert judge_rows(given)["counts"] == result["counts"]
    again = lines_of(tmp_path / "labels" / "judgements.jsonl")
    assert [line["id"] for line in again] == [json.loads(line)["id"] for line in lines]
    assert lines_of(tmp_path / "labels" / "rankings.jsonl") == rankings


def test_equal_scores_are_ties(config, tmp_path):
    rows = [{"prompt": "p", "replies": ["aa", "b", "cc"]}, {"prompt": "q", "replies": ["a", "b"]}]
    result = judge_rows(config(rows, judge="function", reward_function="reward_functions:length"))
    assert lines_of(tmp_path / "labels" / "rankings.jsonl") == [
        {"prompt": "p", "replies": ["aa", "b", "cc"], "ranks": [1, 2, 1]}
    ]
    assert result["counts"]["judged"] == 2


def test_a_function_gets_the_columns_that_it_names(config, tmp_path):
    rows = [
        {"prompt": "p", "replies": ["x", "y"], "wanted": "y"},
        {"prompt": "q", "replies": ["x", "y"], "wanted": "x"},
    ]
    function = {"reward_function": "reward_functions:is_wanted", "reward_columns": ["wanted"]}
    judge_rows(config(rows, judge="function", **function))
    assert [row["ranks"] for row in lines_of(tmp_path / "labels" / "rankings.jsonl")] == [[2, 1], [1, 2]]


def test_a_reward_model_ranks_by_its_score(config, tmp_path, reward_dir):
    judge_rows(config(samples(3), judge="reward", reward_model=str(reward_dir)))
    reward = load_reward(str(reward_dir))
    for row in lines_of(tmp_path / "labels" / "rankings.jsonl"):
        scores = reward.score_sampled([row] * 3, row["replies"]).tolist()
        assert [score for _, score in sorted(zip(row["ranks"], scores, strict=True))] == sorted(scores, reverse=True)


def test_a_language_model_ranks_by_its_wins_over_pairs(config, tmp_path, sft_dir):
    result = judge_rows(config(samples(2), judge=str(sft_dir)))
    verdicts = lines_of(tmp_path / "labels" / "verdicts.jsonl")
    assert len(verdicts) == 2 * 3 and result["counts"]["judgements"] == 2
    assert all(len(line["firsts"]) == 2 for line in verdicts)


def test_people_and_a_judge_in_one_folder_are_compared_and_chosen(config, tmp_path):
    rows = samples(4)
    judge_rows(config(rows, judge="function", reward_function="reward_functions:length"))
    loaded, _ = load_label_rows(config(rows))
    saved = LabelsFile(tmp_path / "labels" / "judgements.jsonl")
    event = {"kind": "judgement", "labeler": "Ann", "time": now(), "seconds": 1.0, "all_bad": False, "answer": None}
    saved.add([event | {"id": row.key, "row": row.key, "ranks": [3, 1, 2]} for row in loaded])
    result = judge_rows(config(rows, export=True, labelers=["Ann"]))
    (pair,) = result["agreement"]["labelers"]
    assert {pair["a"], pair["b"]} == {"Ann", "reward_functions:length"} and pair["pairs"] == 12
    assert pair["equal"] == pytest.approx(1 / 3)  # both find the third response better than the first
    assert {tuple(row["ranks"]) for row in lines_of(tmp_path / "labels" / "rankings.jsonl")} == {(3, 1, 2)}


def test_a_labeler_who_judged_nothing_is_reported(config, capsys):
    judge_rows(config(samples(1), judge="function", reward_function="reward_functions:length", labelers=["An"]))
    assert "labelers: An judged nothing here; those who did: reward_functions:length" in capsys.readouterr().err


def test_feedback_of_a_server_is_a_row_for_each_response_with_its_correction(config, tmp_path):
    """A thumb is one response; a correction is compared with the response that it corrects."""
    file, asked = FeedbackFile(tmp_path / "feedback.jsonl"), [{"role": "user", "content": "Who?"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    for number in range(2):
        file.keep(f"chat-{number}", Answered("m", asked, tools, f"reply {number}"))
    file.add({"messages": asked, "response": "yes", "rating": "down"})
    file.add({"messages": asked, "response": "no", "correction": "right"})
    file.add({"messages": asked, "response": "no", "correction": "right"})  # the same of another person
    file.add({"id": "chat-0", "rating": "up"})
    file.add({"id": "chat-1", "rating": "down"})
    file.add({"id": "chat-1", "correction": "better"})
    file.add({"id": "chat-1", "correction": "best"})
    rows, stats = load_label_rows(config(lines_of(tmp_path / "feedback.jsonl")))
    assert [row.replies for row in rows] == [
        ["yes"],
        ["no", "right"],
        ["reply 0"],
        ["reply 1", "better", "best"],
    ]
    assert [bool(row.options) for row in rows] == [False, False, True, True]
    assert stats.dropped == {"repeated": 3, "added to a row as another response to its prompt": 4}
    assert len({row.key for row in rows}) == 4


def test_responses_to_one_prompt_stay_apart_without_an_id(config):
    rows = [{"prompt": "Who?", "completion": text, "label": text == "right"} for text in ("right", "no")]
    for given in (rows, [row | {"id": ""} for row in rows], [rows[0] | {"id": "1"}, rows[1] | {"id": "2"}]):
        assert [row.replies for row in load_label_rows(config(given))[0]] == [["right"], ["no"]]


def test_the_command_judges_and_prints_the_counts(config, tmp_path, capsys):
    config(samples(2))
    argv = ["label", tmp_path / "rows.jsonl", "--judge", "function", "--reward_function", "reward_functions:length"]
    assert main([*map(str, argv), "--output_dir", str(tmp_path / "labels")]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 rows judged, 2 judgements, 0 skips: 2 rankings, 0 instructions" in shown
