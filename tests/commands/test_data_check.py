"""`hfkit data check`: its report on good and bad rows, and when the exit status is 1."""

import re

import pytest
import yaml
from conftest import write_rows
from data_fixtures import ENDED, LONG, PAIR, TURN, different
from toy_stage import TOY

from hfkit import cli
from hfkit.commands.data.cards import stages_reading
from hfkit.config.registry import STAGES
from hfkit.data.cards import REQUIRED_COLUMNS


@pytest.mark.parametrize(
    ("stage", "row", "config", "reported"),
    [
        ("tokenizer", {"text": "Ann likes red."}, {}, ["30 rows, 30 kept, 500 bytes"]),
        ("pretrain", {"text": "Ann likes red."}, {}, ["30 rows, 30 kept"]),
        ("sft", TURN, {}, ["30 rows, 30 kept", "in every row: end-of-text at the end", "tokens are the responses"]),
        (
            "sft",
            {"text": "Ann likes red."},
            {},
            ["30 rows, 30 kept", "100.0% of them trained", "all tokens are trained"],
        ),
        ("reward", PAIR, {}, ["30 rows, 30 kept", "in every row: end-of-text at the end", "longer one in 100.0%"]),
        ("ppo", {"prompt": "What?"}, {"reward_functions": ["math:sqrt"]}, ["30 rows, 30 kept"]),
    ],
)
def test_good_rows_of_every_stage_pass(data_verb, stage, row, config, reported):
    longer = ["--max_longer", "1"] if stage == "reward" else []
    status, out, err = data_verb("check", stage, different(row), *longer, **config)
    assert (status, err) == (0, "")
    for words in [*reported, "no threshold exceeded"]:
        assert words in out
    counts = [int(line.split()[-1]) for line in out.splitlines() if re.search(r" to \d+ (tokens|bytes) ", line)]
    assert sum(counts) == 30


ROWS = different(TURN)
BAD = {
    "dropped": (different(TURN, 8) + [{**TURN, "response": ""}] * 2, "20.0% of the rows are dropped"),
    "nothing left": ([{**TURN, "response": ""}] * 3, "no rows are left"),
    "special text": ([*different(TURN, 9), ENDED], "10.0% of the rows are with the text of a special token"),
    "lost characters": ([*different(TURN, 9), {**TURN, "response": "caf�"}], "are with U+FFFD"),
    "duplicates": (different(TURN, 8) + [TURN] * 3, "18.2% of the rows are duplicates"),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_exit_status_is_1_past_a_threshold(data_verb, kind):
    rows, message = BAD[kind]
    status, out, err = data_verb("check", "sft", rows)
    assert status == 1
    assert "warning: sft train: " in err and message in err
    assert "thresholds exceeded: " in out
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert all("hfkit data preview --lost" in line or ", or raise max_" in line for line in warnings)  # what to do


@pytest.mark.slow
def test_thresholds_are_options(data_verb):
    rows = [*different(TURN, 9), ENDED, ENDED]
    assert data_verb("check", "sft", rows)[0] == 1
    allowed = ["--max_faults", "0.5", "--max_duplicates", "0.5"]
    assert data_verb("check", "sft", rows, *allowed)[0] == 0
    lost = [*different(TURN, 4), {**TURN, "response": ""}]
    assert data_verb("check", "sft", lost)[0] == 1
    assert data_verb("check", "sft", lost, "--max_dropped", "0.2")[0] == 0


def test_rows_that_are_only_cut_are_a_warning_and_rows_without_a_response_exceed_a_threshold(data_verb):
    rows = [*different(TURN, 4), {**TURN, "response": LONG}]
    status, _, err = data_verb("check", "sft", rows)
    assert status == 0
    assert re.search(r"1 of 5 kept rows \(20.0%\) are longer than max_length and are cut: .* \d+ tokens", err)
    status, _, err = data_verb("check", "sft", rows, "--max_length", "4")
    assert status == 1
    assert "no rows are left" in err


def test_held_out_rows_in_training_are_reported(data_verb, rows_file):
    held_out = rows_file(different(TURN, 3), "test.jsonl")
    status, out, err = data_verb("check", "sft", different(TURN), max_length=64, eval_datasets=held_out)
    assert status == 1
    assert "3 training rows have held-out prompts; training skips them" in out
    assert "10.0% of the training rows have held-out prompts, above max_overlap: 0.0%. Remove these prompts" in err


@pytest.mark.slow
def test_held_out_rows_past_a_budget_are_not_held_out(data_verb, rows_file):
    held_out = [{**rows_file(different(TURN, 5), "test.jsonl")[0], "rows": 2}]
    out = data_verb("check", "sft", different(TURN), max_length=64, eval_datasets=held_out)[1]
    assert "2 training rows have held-out prompts" in out


def test_held_out_rows_in_ptx_datasets_are_reported(data_verb, rows_file):
    held_out, learned = rows_file(different(TURN, 3), "test.jsonl"), rows_file(different(TURN, 12), "ptx.jsonl")
    changes = {"eval_datasets": held_out, "ptx_datasets": learned, "ptx_coef": 0.5, "reward_functions": ["math:sqrt"]}
    prompts = [{"prompt": f"Who is {number}?"} for number in range(12)]
    status, out, err = data_verb("check", "ppo", prompts, **changes)
    assert status == 1
    assert "3 training rows have held-out prompts; training skips them" in out
    assert "12.5% of the training rows have held-out prompts" in err


def test_cut_tokens_are_counted_and_placed_in_the_histogram(data_verb, tokenizer):
    from hfkit.data.forms import instruction_row

    rows = [*different(TURN), {**TURN, "response": LONG}]
    lost = instruction_row(rows[-1], tokenizer, 64)["length"] - 64
    status, out, _ = data_verb("check", "sft", rows)
    assert status == 0
    assert f"1 truncated (3.2%): {lost} tokens" in out
    assert re.search(r"1  past the limit", out)


@pytest.mark.slow
def test_the_histogram_begins_at_the_shortest_row(data_verb):
    buckets = []
    for rows in ([TURN] * 20, different({**TURN, "response": "Ann likes red. " * 8})):
        out = data_verb("check", "sft", rows, "--max_duplicates", "1")[1]
        buckets.append(re.findall(r"^ *([\d, to]+) tokens +(█*) +(\d+)", out, re.MULTILINE))
    [(length, bar, rows)] = buckets[0]
    assert length.isdigit() and bar and rows == "20"
    assert int(buckets[1][0][2]) > 0 and sum(int(rows) for *_, rows in buckets[1]) == 30


@pytest.mark.slow
def test_rows_that_keep_leaves_out_are_counted(data_verb, tmp_path):
    write_rows(tmp_path / "rated.jsonl", [{**row, "stars": 1 + (number % 3 > 0)} for number, row in enumerate(ROWS)])
    recipe = {"path": str(tmp_path), "form": "prompt_response", "files": {"train": "rated.jsonl"}}
    recipe |= {"columns": {"prompt": "prompt", "response": "response"}, "keep": [{"column": "stars", "at_least": 2}]}
    card = yaml.safe_dump({"hfkit": recipe})
    (tmp_path / "rated.md").write_text(f"---\n{card}---\n")
    out = data_verb("check", "sft", [], datasets=[{"card": str(tmp_path / "rated.md")}])[1]
    assert "20 rows, 20 kept" in out and "10 more rows left out by keep or drop_ties" in out


@pytest.mark.slow
def test_rankings_are_checked_by_their_pairs(data_verb):
    row = {"prompt": "What?", "replies": ["Ann likes red, thank you.", "red", "blue and green"], "ranks": [1, 2, 3]}
    rows = [{**row, "prompt": f"What? {number}"} for number in range(20)] + [{**row, "ranks": [1, 1, 1]}]
    status, out, _ = data_verb("check", "reward", rows)
    assert status == 0
    assert "1 dropped (4.8%): all tied" in out
    assert "the better response is the longer one in 66.7% of the pairs" in out


def test_a_pipeline_is_checked_stage_by_stage(tmp_path, tokenizer_dir, capsys, data):
    for stage, rows in (("tokenizer", "docs"), ("pretrain", "docs"), ("sft", "turns")):
        config = {"datasets": [{"path": str(data / f"{rows}.jsonl")}]}
        config |= {"model_config": {"model_type": "llama"}} if stage == "pretrain" else {}
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(config))
    stages = {stage: f"{stage}.yaml" for stage in ("tokenizer", "pretrain", "sft")}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "stages": stages}))
    assert cli.main(["data", "check", str(tmp_path / "all.yaml")]) == 1
    assert "pretrain: its tokenizer " in capsys.readouterr().err
    words = ["--tokenizer", str(tokenizer_dir), "--max_duplicates", "1"]
    assert cli.main(["data", "check", str(tmp_path / "all.yaml"), *words]) == 0
    out = capsys.readouterr().out
    assert [f"{stage} train: " in out for stage in stages] == [True] * 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "words"), [("chek", "did you mean `hfkit data check`?"), ("check", "name a YAML")])
def test_wrong_commands_are_reported(capsys, command, words):
    try:
        assert cli.main(["data", command]) != 0
    except SystemExit as error:
        assert error.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_of_ten_megabytes_is_truncated_and_reported(data_verb):
    rows = [*different(TURN), {**TURN, "response": "red " * 2_500_000}]
    status, out, _ = data_verb("check", "sft", rows)
    assert status == 0
    assert re.search(r"1 truncated \(3.2%\): [\d,]{9,} tokens", out)


def test_a_registered_stage_is_checked_and_previewed(data_verb, monkeypatch):
    monkeypatch.setitem(STAGES, TOY.name, TOY)
    status, out, err = data_verb("check", "toy", different(TURN), max_length=64)
    assert (status, err) == (0, "")
    assert "toy train: " in out and "the trained tokens are the responses" in out
    status, out, _ = data_verb("preview", "toy", [TURN], max_length=64)
    assert status == 0
    assert "[[Ann likes red.<|endoftext|>]]" in out


def test_cards_are_read_by_the_stages_whose_columns_they_have():
    prompts = "ppo (its prompts), grpo (its prompts), rloo (its prompts)"
    assert {form: stages_reading(form) for form in REQUIRED_COLUMNS} == {
        "text": "tokenizer, pretrain, sft",
        "prompt_response": f"sft, {prompts}",
        "messages": f"sft, {prompts}",
        "preference": f"reward, dpo, {prompts}",
        "ranking": f"reward, dpo, {prompts}",
        "prompts": "ppo, grpo, rloo",
    }


def test_unread_columns_and_renamed_roles_are_named(data_verb):
    chat = [{"role": "human", "content": "What does Ann like?"}, {"role": "gpt", "content": "Ann likes red."}]
    status, out, _ = data_verb("check", "sft", [{"messages": chat, "id": 1, "system_prompt": "Be brief."}])
    assert status == 0
    assert "columns not read: id, system_prompt\n" in out
    assert "map the columns that the model should read, such as columns: {system: system_prompt}\n" in out
    assert "roles renamed: human as user, gpt as assistant\n" in out


@pytest.mark.parametrize("command", ["check", "preview"])
def test_prompts_without_a_chat_template_are_warned_of(data_verb, with_template, tmp_path, command):
    with_template(None).save_pretrained(tmp_path / "bare")
    status, _, message = data_verb(command, "sft", different(TURN), "--tokenizer", str(tmp_path / "bare"))
    assert status == 0 and "the tokenizer has no chat template" in message
