"""`hfkit data preview`: the rows of every stage, with marks around what is trained."""

import re

import pytest
from data_fixtures import ENDED, LONG, PAIR, TURN

from hfkit.commands.data.preview import highlight
from hfkit.data.rendering import SANITIZES


def test_preview_marks_what_is_trained(data_verb):
    chat = [
        {"role": "user", "content": "Ann?"},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Bob?"},
        {"role": "assistant", "content": "Blue."},
    ]
    status, out, _ = data_verb("preview", "sft", [{"messages": chat}] * 5, "-n", "2")
    assert status == 0
    turns = (
        "<|user|>\nAnn?\n<|assistant|>\n[[Red.<|endoftext|>]]\n<|user|>\nBob?\n<|assistant|>\n[[Blue.<|endoftext|>]]"
    )
    assert out.count(turns) == 2
    assert "row 0: " in out and "row 1: " in out and "row 2: " not in out


@pytest.mark.parametrize(
    ("stage", "row", "config", "reported"),
    [
        ("tokenizer", {"text": "Ann."}, {}, "{'text': 'Ann.'}"),
        ("pretrain", {"text": "Ann."}, {}, "[[Ann.<|endoftext|>]]"),
        ("ppo", {"prompt": "Ann?"}, {"reward_functions": ["math:sqrt"]}, "<|user|>\nAnn?\n<|assistant|>\n"),
        (
            "reward",
            {"prompt": "Ann?", "chosen": "Red is it.", "rejected": "Red."},
            {},
            "rejected: <|user|>\nAnn?\n<|assistant|>\n[[Red.<|endoftext|>]]",
        ),
        (
            "reward",
            {"prompt": "Ann?", "replies": ["Blue.", "Red.", "Green."], "scores": [0, 2, 1]},
            {},
            "better than 2: <|user|>\nAnn?\n<|assistant|>\n[[Red.<|endoftext|>]]\nbetter than 1: ",
        ),
    ],
)
def test_preview_shows_the_rows_of_every_stage(data_verb, stage, row, config, reported):
    status, out, _ = data_verb("preview", stage, [row], **config)
    assert status == 0
    assert reported in out


def test_preview_of_pairs_marks_every_turn_of_the_assistant_after_the_common_ones(data_verb):
    def chat(*texts: str) -> list[dict]:
        return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]

    row = {"chosen": chat("Ann?", "Red.", "Bob?", "Blue."), "rejected": chat("Ann?", "Green.", "Why?", "Oh.")}
    status, out, _ = data_verb("preview", "dpo", [row])
    assert status == 0
    assert "chosen: <|user|>\nAnn?\n<|assistant|>\n[[Red.<|endoftext|>]]\n<|user|>\nBob?\n<|assistant|>\n[[Blue." in out
    assert "[[Green.<|endoftext|>]]\n<|user|>\nWhy?\n<|assistant|>\n[[Oh.<|endoftext|>]]" in out


def test_preview_shows_the_rows_that_are_lost_with_the_reason(data_verb):
    rows = [TURN, {**TURN, "response": ""}, {**TURN, "response": LONG}, ENDED, TURN]
    _, out, _ = data_verb("preview", "sft", rows, "--lost")
    headings = [line for line in out.splitlines() if line.startswith("== ")]
    assert [re.search(r"row (\d)", line)[1] for line in headings] == ["1", "2", "3"]
    for heading, reported in zip(
        headings, ("dropped: without a response", ", cut", "text of a special token"), strict=True
    ):
        assert reported in heading
    assert f"[[red{'<|endoftext|>' if SANITIZES else '< |endoftext|>'}<|endoftext|>]]" in out


def test_preview_hands_no_escapes_to_the_terminal(data_verb):
    _, out, _ = data_verb("preview", "sft", [{"prompt": "Ann?\x1b[2J", "response": "Red.\x1b]0;title\x07"}])
    assert r"Ann?\x1b[2J" in out and r"[[Red.\x1b]0;title\x07<|endoftext|>]]" in out
    assert "\x1b" not in out and "\x07" not in out


def test_colours_are_for_a_terminal(tokenizer):
    text = highlight("", *zip(*[(1, False), (300, True)], strict=True), tokenizer, marks=False)
    assert "[[" not in text.plain
    assert any("green" in str(span.style) for span in text.spans)


PAIR_WITH_SYSTEM = {"system": "Be brief.", **PAIR}


@pytest.mark.parametrize(
    ("stage", "row", "config"),
    [
        ("sft", {"system": "Be brief.", **TURN}, {}),
        ("reward", PAIR_WITH_SYSTEM, {}),
        ("ppo", PAIR_WITH_SYSTEM, {"reward_functions": ["math:sqrt"]}),
    ],
)
def test_a_system_column_is_rendered_in_every_stage(data_verb, stage, row, config):
    status, out, _ = data_verb("preview", stage, [row], "-n", "1", **config)
    assert status == 0
    assert "<|system|>\nBe brief.\n<|user|>\nWhat does Ann like?\n<|assistant|>" in out


def test_a_preview_of_nothing_says_so(data_verb):
    row = {"prompt": "Who?", "response": "Ann."}
    status, _, message = data_verb("preview", "sft", [row], "--split", "ptx")
    assert status == 1 and "sets no ptx_datasets, which --split ptx needs" in message
    status, out, _ = data_verb("preview", "sft", [row], "--lost")
    assert status == 0 and "no rows are dropped, truncated or faulty" in out
    status, out, _ = data_verb("preview", "sft", [{**row, "response": ""}])
    assert status == 0 and "no rows are kept: without a response (--lost shows them" in out
