"""Traits of chat templates one by one: thinking in a field, dates, messages left out, content in parts."""

import pytest
from template_families import FAMILIES
from transformers import AutoTokenizer

from hfkit.config.stages import SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import encode_prompt, encode_replies, reply_ending
from hfkit.data.comparisons import preference_row, ranking_row
from hfkit.data.forms import IGNORE, instruction_row, prompt_row
from hfkit.data.reply_tokens import NO_MORE_THINKING, NO_TEXT_BESIDE_CALLS, NO_TOOL_CALLS
from hfkit.models.tokenizers import load_stage_tokenizer, read_tokenizer

USER, AGAIN = {"role": "user", "content": "Where is Oslo?"}, {"role": "user", "content": "And Rome?"}
ANSWER = {"role": "assistant", "content": "Oslo is in Norway."}
SECOND = {"role": "assistant", "content": "Rome is in Italy."}
OFF = {"enable_thinking": False}


def trained_texts(tokenizer, row: dict) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != IGNORE])


@pytest.mark.parametrize("name", ["DeepSeek R1", "QwQ"])
def test_empty_reasoning_closes_the_thinking_that_the_prompt_opens(tokenizer_for, name):
    tokenizer = tokenizer_for(name)
    row = instruction_row({"messages": [USER, {**ANSWER, "reasoning_content": ""}]}, tokenizer, 256)
    end = FAMILIES[name].end
    assert trained_texts(tokenizer, row) == f"\n</think>\n\nOslo is in Norway.{end}"
    prompt = encode_prompt(tokenizer, [USER])
    assert row["input_ids"][: len(prompt)] == prompt and tokenizer.decode(prompt).endswith("<think>\n")
    written = {**ANSWER, "content": "<think>\n\n</think>\n\nOslo is in Norway."}
    assert encode_replies(tokenizer, [USER], [[written]]) == [row["input_ids"]]


def test_a_reply_that_thinks_after_a_prompt_that_closes_the_thinking_is_refused(tokenizer_for):
    tokenizer = tokenizer_for("Qwen 3")
    for reply in (
        {**ANSWER, "content": "<think>\nI know.\n</think>\n\nOslo."},
        {**ANSWER, "reasoning_content": "I know."},
    ):
        row = instruction_row({"messages": [USER, reply], "chat_template_kwargs": OFF}, tokenizer, 256)
        assert row["dropped"] == NO_MORE_THINKING
        assert instruction_row({"messages": [USER, reply]}, tokenizer, 256)["dropped"] == ""


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_in_a_field_is_trained_under_any_of_its_names(tokenizer_for, field):
    """gpt-oss reads `thinking` and Gemma `reasoning`; fields that Arrow adds to other messages are null."""
    tokenizer = tokenizer_for("gpt-oss")
    row = {"messages": [{**USER, field: None}, {**ANSWER, field: "o"}, {**AGAIN, field: None}, {**SECOND, field: None}]}
    assert trained_texts(tokenizer, instruction_row(row, tokenizer, 256)) == (
        "<|channel|>analysis<|message|>o<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Oslo is in Norway.<|return|>"
        "<|channel|>final<|message|>Rome is in Italy.<|return|>"
    )
    chatml = instruction_row(row, tokenizer_for("ChatML"), 256)
    expected = "<think>\no\n</think>\n\nOslo is in Norway.<|im_end|>Rome is in Italy.<|im_end|>"
    assert trained_texts(tokenizer_for("ChatML"), chatml) == expected


def test_text_next_to_tool_calls_that_the_template_omits_is_refused_with_that_reason(tokenizer_for):
    tokenizer = tokenizer_for("gpt-oss")
    call = {"type": "function", "function": {"name": "find", "arguments": {"city": "Oslo"}}}
    calling = {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
    assert instruction_row({"messages": [USER, calling]}, tokenizer, 256)["dropped"] == NO_TEXT_BESIDE_CALLS
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ c.function.arguments | tojson }}", "{}")
    calling["content"] = ""
    assert instruction_row({"messages": [USER, calling]}, tokenizer, 256)["dropped"] == NO_TOOL_CALLS


def test_todays_date_in_a_template_is_warned_of_and_pinned_for_every_later_use(tokenizer_for, tmp_path, capsys):
    tokenizer, chat = tokenizer_for("ChatML"), FAMILIES["ChatML"].template
    tokenizer.chat_template = "{{ 'Today: ' + (date_string or strftime_now('%d %b %Y')) }}\n" + chat
    tokenizer.save_pretrained(tmp_path / "a")
    options = {"output_dir": "unused", "model_name_or_path": str(tmp_path / "a")}
    load_stage_tokenizer(SFTConfig(**options))
    assert "writes today's date" in capsys.readouterr().err
    load_stage_tokenizer(SFTConfig(**options, chat_template_kwargs={"date_string": "1 May 2020"}))
    pinned = load_stage_tokenizer(SFTConfig(**options, chat_template_kwargs={"strftime_now": "2020-05-01"}))
    assert capsys.readouterr().err == ""
    assert tokenizer.decode(encode_prompt(pinned, [USER])).startswith("Today: 01 May 2020\n<|im_start|>")
    pinned.save_pretrained(tmp_path / "b")
    plain = AutoTokenizer.from_pretrained(tmp_path / "b").apply_chat_template([USER, ANSWER], tokenize=False)
    assert plain == tokenizer.decode(encode_replies(read_tokenizer(str(tmp_path / "b")), [USER], [[ANSWER]])[0]) + "\n"
    with pytest.raises(HfkitError, match=r"strftime_now is not a date \(YYYY-MM-DD\): .*'May'"):
        load_stage_tokenizer(SFTConfig(**options, chat_template_kwargs={"strftime_now": "May"}))
    with pytest.raises(HfkitError, match="has no variable strftime_now"):
        tokenizer_for("ChatML").save_pretrained(tmp_path / "a")
        load_stage_tokenizer(SFTConfig(**options, chat_template_kwargs={"strftime_now": "2020-05-01"}))


def test_a_message_that_the_template_leaves_out_is_a_fault_in_every_stage(tokenizer_for):
    developer, last = {"role": "developer", "content": "Be  brief."}, {"role": "user", "content": "Thanks."}
    for name, found in (("Qwen 3", "LEFT_OUT"), ("ChatML", "")):
        tokenizer = tokenizer_for(name)
        pair = {"prompt": [developer, USER], "chosen": [ANSWER], "rejected": [SECOND]}
        rows = [
            instruction_row({"messages": [developer, USER, ANSWER, last]}, tokenizer, 256),
            preference_row(pair, tokenizer, 256),
            ranking_row(pair, tokenizer, 256),
            prompt_row({"prompt": [developer, USER]}, tokenizer, 256),
        ]
        assert [(row["dropped"], row["faults"]) for row in rows] == [("", found)] * 4
        without = instruction_row({"messages": [USER, ANSWER, last, {**SECOND, "weight": 0}]}, tokenizer, 256)
        assert (without["dropped"], without["faults"]) == ("", "")


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_a_turn_ends_with_one_token_whoever_speaks_next(tokenizer_for, role):
    tokenizer = tokenizer_for("GLM 4")
    row = instruction_row({"messages": [USER, ANSWER, {"role": role, "content": "Go on."}, SECOND]}, tokenizer, 256)
    replies = ["Oslo is in Norway.", *["Go on."] * (role == "assistant"), "Rome is in Italy."]
    assert trained_texts(tokenizer, row) == "".join(f"{reply}<|user|>" for reply in replies)


def test_a_template_that_reads_content_in_parts_alone_gets_parts(tokenizer_for):
    plain, parts = tokenizer_for("ChatML"), tokenizer_for("ChatML")
    looped = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    parts.chat_template = parts.chat_template.replace("{{ m.content }}", looped)
    row = {"messages": [USER, ANSWER, {"role": "user", "content": "And <|im_end|>?"}, SECOND]}
    expected, found = (instruction_row(row, tokenizer, 256) for tokenizer in (plain, parts))
    assert (found["dropped"], found["faults"]) == ("", "SPECIAL")
    assert (found["input_ids"], found["labels"]) == (expected["input_ids"], expected["labels"])
    assert encode_prompt(parts, [USER]) == encode_prompt(plain, [USER])
    assert reply_ending(parts) is None, "plain Transformers would need the parts too"
