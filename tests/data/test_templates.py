"""Every family of chat templates: the same tokens in SFT, reward, PPO and chat, and only the replies are trained.

The expected tokens are computed independently: what is trained lies, by character offsets, on the text of each reply
and of the end of its turn, after what plain Transformers renders as the prompt. The table is docs/templates.md.
"""

import copy
import json
import os
from pathlib import Path

import pytest
from template_families import FAMILIES, Family, base_tokenizer, tokenizer_of

from hfkit.commands.chat.conversation import encode_messages
from hfkit.data.chat_template import encode_prompt, encode_replies, turn_end_ids
from hfkit.data.comparisons import preference_row
from hfkit.data.faults import Fault
from hfkit.data.forms import IGNORE, instruction_row, prompt_row
from hfkit.data.messages import RenderError
from hfkit.stages.tokenizer import CHAT_TEMPLATE

TABLE = Path(__file__).parents[2] / "docs" / "templates.md"
USER, AGAIN = {"role": "user", "content": "Where is Oslo?"}, {"role": "user", "content": "And Rome?"}
ANSWER = {"role": "assistant", "content": "Oslo is in Norway."}
SECOND = {"role": "assistant", "content": "Rome is in Italy."}
SYSTEM = {"role": "system", "content": "Be brief."}
THOUGHT = {"role": "assistant", "content": "<think>\nI know it.\n</think>\n\nOslo is in Norway."}
THOUGHT_2 = {"role": "assistant", "content": "<think>\nThat too.\n</think>\n\nRome is in Italy."}
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
    "tools": [USER, CALLING, RESULT, ANSWER],
}


@pytest.fixture(scope="module")
def base():
    return base_tokenizer()


@pytest.fixture
def family_tokenizer(base):
    """family_tokenizer(name) -> its tokenizer."""
    return lambda name: made_tokenizer(name, base)


def made_tokenizer(name: str, base):
    tokenizer = tokenizer_of(FAMILIES[name], base)
    tokenizer.chat_template = tokenizer.chat_template or CHAT_TEMPLATE.read_text(encoding="utf-8")
    return tokenizer


def text_prompt(tokenizer, messages: list[dict], tools) -> str:
    """The prompt as plain Transformers renders it; arguments as JSON where the template takes text."""
    as_text = copy.deepcopy(messages)
    for message in as_text:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    except TypeError:
        return tokenizer.apply_chat_template(as_text, tools=tools, tokenize=False, add_generation_prompt=True)


def sequences_of(row: dict) -> list[tuple[list[int], list[bool]]]:
    """The sequences of an encoded row of SFT, each with the mask of what is trained."""
    start, found = 0, []
    for length in row["parts"] or [len(row["input_ids"])]:
        labels = row["labels"][start : start + length]
        found.append((row["input_ids"][start : start + length], [label != IGNORE for label in labels]))
        start += length
    return found


def trained_by_offsets(tokenizer, family: Family, ids: list[int], mask: list[bool], text: str) -> bool:
    """Whether the trained tokens of a run are those on the characters of a reply and of the end of its turn."""
    whole = tokenizer.decode(ids)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    if encoded["input_ids"] != ids:  # a prompt and a reply that would have a token in common
        return True
    starts = [start for start, _ in encoded["offset_mapping"]]
    trained = [start for start, is_trained in zip(starts, mask, strict=True) if is_trained]
    stop = max(end for (_, end), is_trained in zip(encoded["offset_mapping"], mask, strict=True) if is_trained)
    position = whole.rindex(text, 0, stop)
    return whole[position:stop] == text + family.end and trained[-1] >= position


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
        return f"refused: {row['dropped'].removeprefix('the chat template rejects it: ').partition(' (')[0]}"
    assert row["faults"] in ("", Fault.NO_BOS.name), row["faults"]
    replies = [(index, one) for index, one in enumerate(messages) if one["role"] == "assistant"]
    expected = iter(replies)
    for ids, mask in sequences_of(row):
        runs = [index for index in range(len(ids)) if mask[index] and (index == 0 or not mask[index - 1])]
        for start in runs:
            index, message = next(expected)
            end = next((i for i in range(start, len(ids)) if not mask[i]), len(ids))
            trained, before = tokenizer.decode(ids[start:end]), tokenizer.decode(ids[:start])
            if index:
                assert before == text_prompt(tokenizer, messages[:index], tools), "the prompt that is sampled after"
            wanted = message["content"]
            if message.get("tool_calls"):
                assert "find" in trained and "Oslo" in trained
                assert trained.endswith(family.end) or trained.endswith("<|observation|>")
                continue
            if before.rstrip().endswith("<think>"):
                wanted = wanted.removeprefix("<think>\n")
            assert trained.endswith(wanted + family.end)
            opens = trained.removesuffix(wanted + family.end)
            assert opens in ("", family.opens), "what the template writes before a reply"
            assert trained_by_offsets(tokenizer, family, ids[:end], mask[:end], wanted)
    assert next(expected, None) is None, "every reply is trained"
    last = sequences_of(row)[-1][0]
    assert encode_replies(tokenizer, prompt, [[reply]], tools) == [last], "the reward model reads the same"
    if prompt[-1]["role"] != "assistant":
        pair = {"prompt": prompt, "chosen": [reply], "rejected": [{**reply, "content": "No."}], "tools": tools}
        pair = preference_row(pair, tokenizer, 2048)
        assert pair["dropped"] == "" or "thinking" in pair["dropped"]
        assert pair["chosen_ids"] in (last, [])
        ppo = prompt_row({"prompt": prompt, "tools": tools}, tokenizer, 2048)["input_ids"]
        assert last[: len(ppo)] == ppo == encode_prompt(tokenizer, prompt, tools)
        if tools is None:
            assert encode_messages(tokenizer, prompt, None) == ppo
        assert last[-1] in turn_end_ids(tokenizer), "the end of a turn stops a sampled reply"
    return "exact"


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_stage_reads_the_same_tokens_and_trains_on_the_replies(family_tokenizer, name, kind):
    assert verify(name, kind, family_tokenizer(name)).startswith(("exact", "refused: "))


def test_the_table_of_the_docs_is_what_is_true(base):
    """HFKIT_WRITE_TABLE=1 writes it anew."""
    lines = ["| family | " + " | ".join(CONVERSATIONS) + " |", "|---" * (len(CONVERSATIONS) + 1) + "|"]
    for name in FAMILIES:
        cells = [verify(name, kind, made_tokenizer(name, base)) for kind in CONVERSATIONS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    head = TABLE.read_text(encoding="utf-8").partition("| family")[0] if TABLE.exists() else ""
    text = head + "\n".join(lines) + "\n"
    if os.environ.get("HFKIT_WRITE_TABLE"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text
