"""Pairs and rankings from rows: their prompts, their responses, and each reason to drop a row."""

import pytest
from dialogue import ANSWER, EMPTY, LONG, OTHER, PROMPT, REPLY, TURN

from hfkit.data.comparisons import preference_row, ranking_row
from hfkit.data.faults import Fault

NOT_THE_ASSISTANTS = "with a response that is not the assistant's"
PAIR = ("chosen", "rejected")
TRIMS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}{% endfor %}"
TRIMS += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# A template that leaves out earlier responses.
FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and not loop.last %}(short)"
    "{% else %}{{ m.content }}{% endif %}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "chosen": REPLY, "rejected": "red"},
        {"prompt": [TURN], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "red"}]},
        {"chosen": [TURN, ANSWER], "rejected": [TURN, {"role": "assistant", "content": "red"}]},
    ],
    ids=["strings", "messages", "implicit prompt"],
)
def test_every_form_of_a_pair_gives_the_same_row(tokenizer, row):
    given = preference_row(row, tokenizer, 64)
    assert given["dropped"] == ""
    assert tokenizer.decode(given["chosen_ids"]) == f"<|user|>\n{PROMPT}\n<|assistant|>\n{REPLY}<|endoftext|>"
    assert tokenizer.decode(given["rejected_ids"]) == f"<|user|>\n{PROMPT}\n<|assistant|>\nred<|endoftext|>"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": None}, "without a response"),
        ({"rejected": None}, "without a response"),
        ({"chosen": "red"}, "with equal responses"),
        ({"rejected": LONG}, "longer than max_length=64"),
    ],
)
def test_a_pair_that_teaches_nothing_is_dropped(tokenizer, changes, reason):
    row = {"prompt": PROMPT, "chosen": REPLY, "rejected": "red", **changes}
    assert preference_row(row, tokenizer, 64)["dropped"] == reason


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None, "chosen": "", "rejected": "x"}, "without a prompt"),
        ({"prompt": "", "chosen": "Yes.", "rejected": "Yes, I do"}, "without a prompt"),
        ({"prompt": [], "chosen": [TURN, ANSWER], "rejected": [TURN, TURN, ANSWER]}, "without a prompt"),
        ({"chosen": "Yes ", "rejected": "No"}, "with no prompt in common"),
        ({"chosen": "", "rejected": "No"}, "with no prompt in common"),
        ({"chosen": [ANSWER], "rejected": [TURN, ANSWER]}, "with no prompt in common"),
        ({"chosen": {"content": "Yes"}, "rejected": {"content": "No"}}, "with no prompt in common"),
        ({"chosen": "Yes", "rejected": "Yes, I do"}, "with an empty response"),
        ({"chosen": "The sky is blue", "rejected": "The sky is "}, "with an empty response"),
        (
            {"chosen": f"\n\nHuman: {PROMPT}\n\nAssistant:", "rejected": f"\n\nHuman: {PROMPT}\n\nAssistant: red"},
            "with an empty response",
        ),
        ({"chosen": "Yes", "rejected": "Yes"}, "with equal responses"),
        ({"chosen": "Yes", "rejected": None}, "without a response"),
        ({"prompt": [TURN, ANSWER, TURN], "chosen": [], "rejected": [ANSWER]}, "without a response"),
        ({"prompt": [TURN, ANSWER], "chosen": [TURN], "rejected": [TURN, ANSWER]}, NOT_THE_ASSISTANTS),
        ({"prompt": PROMPT, "chosen": [ANSWER], "rejected": [TURN]}, NOT_THE_ASSISTANTS),
        ({"chosen": [TURN, ANSWER, TURN], "rejected": [TURN, ANSWER, ANSWER]}, NOT_THE_ASSISTANTS),
        ({"chosen": [TURN, ANSWER, TURN], "rejected": [TURN, ANSWER, OTHER]}, NOT_THE_ASSISTANTS),
        ({"chosen": [TURN, ANSWER, TURN, ANSWER], "rejected": [TURN, ANSWER, TURN]}, NOT_THE_ASSISTANTS),
    ],
)
def test_a_pair_without_a_prompt_or_a_response_is_dropped(tokenizer, encoder, row, reason):
    assert encoder(row, tokenizer, 64)["dropped"] == reason


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
@pytest.mark.parametrize(
    ("asked", "replies"),
    [
        ("The sky is", [" blue", " green"]),
        ("\n\nHuman: Hi?\n\nAssistant:", [" Yes, Ann.", " Yes, Bob."]),
        ("\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: Who?\n\nAssistant:", [" Ann.", " Bob."]),
        ("Hi?\n\n<extra_id_1>Assistant\n", ["Yes, Ann.", "Yes, Bob."]),
    ],
    ids=["texts", "transcripts", "transcripts of several turns", "transcripts with other marks"],
)
def test_without_a_prompt_column_the_prompt_is_what_both_replies_begin_with(tokenizer, encoder, asked, replies):
    chosen, rejected = replies
    implicit = encoder({"chosen": asked + chosen, "rejected": asked + rejected}, tokenizer, 128)
    assert implicit == encoder({"prompt": asked, "chosen": chosen, "rejected": rejected}, tokenizer, 128)
    assert implicit["dropped"] == ""


@pytest.mark.parametrize("asked", [PROMPT, [TURN], [TURN | {"name": None}]], ids=["text", "messages", "with a field"])
@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
def test_a_prompt_next_to_whole_conversations_is_asked_once(tokenizer, encoder, asked):
    """HuggingFaceH4/ultrafeedback_binarized has this form without its card."""
    replies = [ANSWER, {"role": "assistant", "content": "red"}]
    pair = {name: [TURN, reply] for name, reply in zip(PAIR, replies, strict=True)}
    alone = {name: [reply] for name, reply in zip(PAIR, replies, strict=True)}
    whole = encoder({"prompt": asked, **pair}, tokenizer, 64)
    assert whole == encoder({"prompt": asked, **alone}, tokenizer, 64)
    assert (whole["dropped"], whole["faults"]) == ("", "")


CHOSEN = [TURN, ANSWER, OTHER, {"role": "assistant", "content": "Ann."}]
REJECTED = [
    TURN,
    ANSWER | {"content": "red"},
    OTHER | {"content": "Red?"},
    {"role": "assistant", "content": "I mean Ann."},
]


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
@pytest.mark.parametrize(
    "row",
    [
        {"chosen": CHOSEN, "rejected": REJECTED},
        {"prompt": PROMPT, "chosen": CHOSEN[1:], "rejected": REJECTED[1:]},
        {"prompt": [TURN], "chosen": CHOSEN, "rejected": REJECTED},
        {"prompt": [TURN], "replies": [CHOSEN[1:], REJECTED[1:]], "ranks": [1, 2]},
    ],
    ids=["whole conversations", "text", "messages", "ranking"],
)
def test_every_turn_after_the_common_ones_is_the_response(tokenizer, encoder, row):
    if "replies" in row and encoder is preference_row:
        pytest.skip("a ranking is no pair")
    made = encoder(row, tokenizer, 128)
    assert (made["dropped"], made["faults"]) == ("", "")
    replies = made["reply_ids"] if "reply_ids" in made else [made["chosen_ids"], made["rejected_ids"]]
    assert [trained_texts(tokenizer, *reply) for reply in zip(replies, made["spans"], strict=True)] == [
        [f"{REPLY}<|endoftext|>", "Ann.<|endoftext|>"],
        ["red<|endoftext|>", "I mean Ann.<|endoftext|>"],
    ]


def trained_texts(tokenizer, ids: list[int], spans: list[int]) -> list[str]:
    return [tokenizer.decode(ids[begin:end]) for begin, end in zip(spans[::2], spans[1::2], strict=True)]


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
def test_turns_that_both_responses_begin_with_are_of_the_prompt(tokenizer, encoder):
    last = [{"role": "assistant", "content": text} for text in ("Ann.", "Bob.")]
    pair = {name: [ANSWER, OTHER, one] for name, one in zip(PAIR, last, strict=True)}
    made = encoder({"prompt": [TURN], **pair}, tokenizer, 128)
    assert made == encoder(
        {"prompt": [TURN, ANSWER, OTHER], "chosen": [last[0]], "rejected": [last[1]]}, tokenizer, 128
    )


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
def test_a_turn_of_a_response_with_weight_0_is_not_trained(tokenizer, encoder):
    made = encoder({"chosen": [CHOSEN[0], ANSWER | {"weight": 0}, *CHOSEN[2:]], "rejected": REJECTED}, tokenizer, 128)
    assert [len(spans) for spans in made["spans"]] == [2, 4]
    assert (made["dropped"], made["faults"]) == ("", "")


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
def test_responses_to_different_questions_are_reported(tokenizer, encoder):
    rejected = [TURN, ANSWER, OTHER | {"content": "Red?"}, {"role": "assistant", "content": "Yes."}]
    made = encoder({"chosen": CHOSEN, "rejected": rejected}, tokenizer, 128)
    assert (made["dropped"], made["faults"]) == ("", Fault.OTHER_QUESTION.name)


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
def test_a_turn_of_a_response_that_the_template_changes_later_is_reported(with_template, encoder):
    tokenizer = with_template(FORGETFUL)
    made = encoder({"chosen": CHOSEN, "rejected": REJECTED}, tokenizer, 128)
    assert (made["dropped"], made["faults"]) == ("", Fault.CHANGED_LATER.name)
    ids = made["reply_ids"][0] if "reply_ids" in made else made["chosen_ids"]
    assert trained_texts(tokenizer, ids, made["spans"][0]) == ["Ann.<|endoftext|>"]


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
@pytest.mark.parametrize("before", [[OTHER], [{"role": "system", "content": "Be brief."}, TURN]])
def test_two_turns_of_one_role_are_reported_for_comparisons_too(tokenizer, encoder, before):
    row = {"prompt": PROMPT, "chosen": [*before, ANSWER], "rejected": [*before, ANSWER | {"content": "red"}]}
    assert encoder(row, tokenizer, 64)["faults"] == Fault.REPEATED.name


@pytest.mark.parametrize("encoder", [preference_row, ranking_row])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "chosen": "", "rejected": "red"},
        {"prompt": PROMPT, "chosen": [EMPTY], "rejected": [ANSWER]},
        {"prompt": [TURN, ANSWER, TURN], "chosen": [EMPTY], "rejected": [ANSWER]},
        {"chosen": [TURN, ANSWER, TURN, EMPTY], "rejected": [TURN, ANSWER, TURN, ANSWER]},
    ],
    ids=["text", "messages", "after an exchange", "whole conversations"],
)
def test_an_empty_chosen_reply_is_reported_in_every_form(tokenizer, encoder, row):
    made = encoder(row, tokenizer, 128)
    assert (made["dropped"], made["faults"]) == ("", Fault.EMPTY_CHOSEN.name)
    ids = made["chosen_ids"] if "chosen_ids" in made else made["reply_ids"][0]
    assert tokenizer.decode(ids).endswith("<|assistant|>\n<|endoftext|>")


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [(preference_row, "with responses that are equal when rendered"), (ranking_row, "all tied")],
)
def test_replies_that_the_template_makes_equal_are_dropped(with_template, encoder, reason):
    trims = with_template(TRIMS)
    assert encoder({"prompt": PROMPT, "chosen": REPLY, "rejected": f"{REPLY} "}, trims, 64)["dropped"] == reason


def test_margins_are_kept(tokenizer):
    row = {"prompt": PROMPT, "chosen": REPLY, "rejected": "red"}
    assert preference_row({**row, "margin": 2}, tokenizer, 64)["margin"] == 2.0
    assert preference_row({**row, "margin": None}, tokenizer, 64)["margin"] == 0.0
    assert "margin" not in preference_row(row, tokenizer, 64)
