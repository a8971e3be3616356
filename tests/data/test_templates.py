"""Every family of chat templates: the same tokens in SFT, reward, PPO and chat, and only the responses are trained.

The expected mask is computed independently: the text that plain Transformers renders as the prompt, then that of the
response and of the end of its turn, and which characters each token covers. The table is docs/data/chat_templates.md.
"""

import copy
import json
import os
from itertools import accumulate
from pathlib import Path

import pytest
from template_families import FAMILIES
from template_parts import Family

from hfkit.commands.chat.conversation import encode_messages
from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import encode_prompt, encode_replies, turn_end_ids
from hfkit.data.comparisons import preference_row
from hfkit.data.faults import Fault
from hfkit.data.forms import IGNORE, instruction_row, prompt_row
from hfkit.data.messages import RenderError

TABLE = Path(__file__).parents[2] / "docs" / "data" / "chat_templates.md"
USER, AGAIN = {"role": "user", "content": "Where is Oslo?"}, {"role": "user", "content": "And Rome?"}
ANSWER = {"role": "assistant", "content": "Oslo is in Norway."}
SECOND = {"role": "assistant", "content": "Rome is in Italy."}
SYSTEM = {"role": "system", "content": "Be brief."}
THOUGHT = {"role": "assistant", "content": "<think>\nI know it.\n</think>\n\nOslo is in Norway."}
THOUGHT_2 = {"role": "assistant", "content": "<think>\nThat too.\n</think>\n\nRome is in Italy."}
REASONING = {**ANSWER, "reasoning_content": "I know it."}
REASONING_2 = {**SECOND, "reasoning_content": "That too."}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"city": "Oslo"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "Norway"}
TOOLS = [{"type": "function", "function": {"name": "find", "description": "Find it.", "parameters": {}}}]
CONVERSATIONS = {
    "single": [USER, ANSWER],
    "several replies": [USER, ANSWER, AGAIN, SECOND],
    "system text": [SYSTEM, USER, ANSWER, AGAIN, SECOND],
    "assistant first": [{"role": "assistant", "content": "Hello."}, USER, ANSWER],
    "thinking": [USER, THOUGHT, AGAIN, THOUGHT_2],
    "thinking in a field": [USER, REASONING, AGAIN, REASONING_2],
    "tools": [USER, CALLING, RESULT, ANSWER],
}


def text_prompt(tokenizer, messages: list[dict], tools) -> str:
    """Return the prompt rendered by plain Transformers, with arguments as JSON if the template needs text."""
    as_text = copy.deepcopy(messages)
    for message in as_text:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    except TypeError:
        return tokenizer.apply_chat_template(as_text, tools=tools, tokenize=False, add_generation_prompt=True)


def sequences_of(row: dict) -> list[tuple[list[int], list[bool]]]:
    """Return the sequences of an encoded SFT row, each with the mask of trained tokens."""
    start, found = 0, []
    for length in row["parts"] or [len(row["input_ids"])]:
        labels = row["labels"][start : start + length]
        found.append((row["input_ids"][start : start + length], [label != IGNORE for label in labels]))
        start += length
    return found


def tokens_within(tokenizer, ids: list[int], start: int, stop: int) -> list[bool]:
    """Return which tokens begin at characters `start` to `stop`; a byte-level token has one character per byte."""
    starts = accumulate([0, *map(len, tokenizer.convert_ids_to_tokens(ids))])
    return [start <= position < stop for position, _ in zip(starts, ids, strict=False)]


def text_of(family: Family, message: dict, prompt: str) -> str:
    """The text of a reply: its thinking, as the family writes it, and its content."""
    if "reasoning_content" not in message:
        text = message["content"]
    else:
        before, after = family.thinks or ("<think>\n", "\n</think>\n\n")
        text = before + message["reasoning_content"] + after + message["content"]
    return text.removeprefix("<think>\n") if prompt.rstrip().endswith("<think>") else text


def verify_prompt(tokenizer, prompt: list[dict], tools) -> str:
    """Return "exact" or "refused" for a prompt of PPO and of chat."""
    row = prompt_row({"prompt": prompt, "tools": tools}, tokenizer, 2048)
    if row["dropped"]:
        with pytest.raises(HfkitError):
            encode_messages(tokenizer, prompt, None)
        return "refused"
    assert tokenizer.decode(row["input_ids"]) == text_prompt(tokenizer, prompt, tools)
    assert encode_prompt(tokenizer, prompt, tools) == row["input_ids"]
    if tools is None:
        assert encode_messages(tokenizer, prompt, None) == row["input_ids"]
    return "exact"


def verify(name: str, kind: str, tokenizer) -> str:
    """Return "exact" or "refused: reason" for a conversation, after every stage has been compared."""
    family, messages, tools = FAMILIES[name], CONVERSATIONS[kind], TOOLS if kind == "tools" else None
    row = instruction_row({"messages": messages, "tools": tools}, tokenizer, 2048)
    *prompt, reply = messages
    if row["dropped"]:
        with pytest.raises(RenderError):
            for index, message in enumerate(messages):
                if message["role"] == "assistant":
                    encode_replies(tokenizer, messages[:index], [[message]], tools)
        assert row["input_ids"] == []
        reason = row["dropped"].removeprefix("rejected by the chat template: ").partition(" (")[0]
        prompts = "; prompts exact" if verify_prompt(tokenizer, prompt, tools) == "exact" else ""
        return f"refused: {reason}{prompts}"
    expected = {Fault.NO_QUESTION.name} if kind == "assistant first" else set()
    assert {*row["faults"].split()} - {Fault.NO_BOS.name} == expected, row["faults"]
    expected = iter([(index, one) for index, one in enumerate(messages) if one["role"] == "assistant"])
    for ids, mask in sequences_of(row):
        runs = [index for index in range(len(ids)) if mask[index] and (index == 0 or not mask[index - 1])]
        for start in runs:
            index, message = next(expected)
            end = next((i for i in range(start, len(ids)) if not mask[i]), len(ids))
            trained, before = tokenizer.decode(ids[start:end]), tokenizer.decode(ids[:start])
            if index:
                assert before == text_prompt(tokenizer, messages[:index], tools), "the prompt that is sampled after"
            if message.get("tool_calls"):
                assert "find" in trained and "Oslo" in trained
                assert trained.endswith(family.call_end or family.end)
                continue
            wanted = text_of(family, message, before) + family.end
            opens = family.opens if trained == family.opens + wanted else ""
            assert trained == opens + wanted
            position = len(before)
            is_trained = tokens_within(tokenizer, ids[:end], position, position + len(opens + wanted))
            assert [False] * start + mask[start:end] == is_trained, "the mask, by the characters of the reply"
    assert next(expected, None) is None, "every reply is trained"
    last = sequences_of(row)[-1][0]
    assert encode_replies(tokenizer, prompt, [[reply]], tools) == [last], "the reward model reads the same"
    pair = {"prompt": prompt, "chosen": [reply], "rejected": [{**reply, "content": "No."}], "tools": tools}
    pair = preference_row(pair, tokenizer, 2048)
    assert pair["dropped"] == "" or "thinking" in pair["dropped"]
    assert pair["chosen_ids"] in (last, [])
    assert verify_prompt(tokenizer, prompt, tools) == "exact"
    ppo = encode_prompt(tokenizer, prompt, tools)
    assert last[: len(ppo)] == ppo, "a reply is sampled after the prompt that was trained"
    assert last[-1] in turn_end_ids(tokenizer), "the end of a turn stops a sampled reply"
    return "exact"


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_stage_reads_the_same_tokens_and_trains_on_the_replies(tokenizer_for, name, kind):
    assert verify(name, kind, tokenizer_for(name)).startswith(("exact", "refused: "))


def test_the_table_of_the_docs_is_correct(tokenizer_for):
    """It has each of the cases above. HFKIT_WRITE_TABLE=1 rewrites it."""
    lines = ["| family | " + " | ".join(CONVERSATIONS) + " |", "|---" * (len(CONVERSATIONS) + 1) + "|"]
    for name in FAMILIES:
        cells = [verify(name, kind, tokenizer_for(name)) for kind in CONVERSATIONS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    head = TABLE.read_text(encoding="utf-8").partition("| family")[0] if TABLE.exists() else ""
    text = head + "\n".join(lines) + "\n"
    if os.environ.get("HFKIT_WRITE_TABLE"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text
