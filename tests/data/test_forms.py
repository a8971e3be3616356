"""Rows to the trainers' columns: each form, each reason to drop a row, and the statistics of lost rows."""

import copy
from types import SimpleNamespace

import pytest
from datasets import Dataset
from dialogue import ANSWER, EMPTY, LONG, OTHER, PROMPT, REPLY, TURN
from read_rows import load_entry
from tokenizers.processors import TemplateProcessing

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import PretrainConfig, RewardConfig, SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.comparisons import encode_comparisons, preference_row
from hfkit.data.faults import Fault, join_faults
from hfkit.data.forms import (
    IGNORE,
    INSTRUCTIONS,
    encode_instructions,
    encode_prompts,
    instruction_row,
    prompt_row,
)
from hfkit.data.packing import pack_documents
from hfkit.data.reply_tokens import NOT_THE_REPLY
from hfkit.data.splits import SplitStats


def config(kind=SFTConfig, **changes):
    return kind(output_dir="unused", datasets=[DatasetEntry(path="unused")], **changes)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "response": REPLY},
        {"prompt": PROMPT, "completion": REPLY},
        {"prompt": [TURN], "completion": [ANSWER]},
        {"messages": [TURN, ANSWER]},
        {"messages": [TURN, ANSWER], "prompt": None, "text": None},
    ],
    ids=lambda row: "+".join(row),
)
def test_every_form_of_an_instruction_gives_the_same_row(tokenizer, row):
    given = instruction_row(row, tokenizer, 64)
    assert given == instruction_row({"messages": [TURN, ANSWER]}, tokenizer, 64)
    assert tokenizer.decode(given["input_ids"]) == f"<|user|>\n{PROMPT}\n<|assistant|>\n{REPLY}<|endoftext|>"
    assert tokenizer.decode([label for label in given["labels"] if label != IGNORE]) == f"{REPLY}<|endoftext|>"
    assert (given["dropped"], given["cut"], given["length"]) == ("", False, len(given["input_ids"]))


def test_a_plain_text_is_all_learned(tokenizer):
    row = instruction_row({"text": REPLY}, tokenizer, 64)
    assert row["labels"] == row["input_ids"]
    assert row["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": PROMPT, "response": ""}, "without a response"),
        ({"prompt": PROMPT, "response": None}, "without a response"),
        ({"text": ""}, "empty"),
        ({"messages": []}, "empty"),
        ({"messages": [TURN]}, "no assistant message"),
        ({"messages": [TURN, {"role": "assistant", "content": ""}]}, "with an empty response"),
        ({"messages": [TURN, {"role": "assistant", "content": None}, TURN, ANSWER]}, "with an empty response"),
        ({"messages": [TURN, {"role": "tool", "content": "x"}, ANSWER]}, "rejected by the chat template: roles are"),
        ({"messages": [TURN, ANSWER], "tools": "{"}, "tools that are not JSON"),
        ({"prompt": PROMPT, "completion": [{"role": "assistant", "content": ""}]}, "with an empty response"),
        ({"prompt": LONG, "response": REPLY}, "with no response within max_length=64"),
    ],
)
def test_an_instruction_without_a_reply_is_dropped(tokenizer, row, reason):
    assert instruction_row(row, tokenizer, 64)["dropped"].startswith(reason)


BOS = "<|system|>"  # added by a tokenizer itself


@pytest.fixture
def with_bos(tokenizer):
    """with_bos(template) -> the tiny tokenizer, changed to begin every text with a special token."""

    def make(template: str):
        changed = copy.deepcopy(tokenizer)
        changed.bos_token, changed.chat_template = BOS, template
        ids = [(BOS, changed.bos_token_id)]
        changed.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=ids)
        return changed

    return make


TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
TURNS += "{% if add_generation_prompt %}<|assistant|>{% endif %}"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": [TURN, ANSWER]}, []),
        ({"messages": [TURN, TURN, ANSWER]}, [Fault.REPEATED]),
        ({"messages": [TURN, ANSWER, ANSWER]}, [Fault.REPEATED]),
        ({"messages": [{"role": "system", "content": "Be brief."}, TURN, ANSWER, TURN, ANSWER]}, []),
        ({"prompt": PROMPT, "response": "red<|endoftext|>"}, [Fault.SPECIAL]),
        ({"prompt": "<|user|> hello", "response": "red"}, [Fault.SPECIAL]),
        ({"text": "red<|endoftext|>blue"}, [Fault.CONTROL]),
        ({"prompt": PROMPT, "response": "caf\ufffd"}, [Fault.REPLACED]),
        ({"prompt": "<|user|>\ufffd", "response": "red"}, [Fault.SPECIAL, Fault.REPLACED]),
    ],
)
def test_a_row_that_is_kept_with_a_fault_names_it(tokenizer, row, found):
    made = instruction_row(row, tokenizer, 64)
    assert (made["dropped"], made["faults"]) == ("", join_faults(found))


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ bos_token }}" + TURNS, ""),
        (TURNS, Fault.NO_BOS.name),
        ("{{ bos_token }}{{ bos_token }}" + TURNS, Fault.TWO_BOS.name),
        ("{{ bos_token }}" + TURNS.replace("{{ m.content }}", "{{ m.content | upper }}"), NOT_THE_REPLY),
        ("{{ bos_token }}" + TURNS.replace("{{ m.content }}", "{{ m.content }} Sure."), NOT_THE_REPLY),
        ("{{ bos_token }}" + TURNS.replace("{{ m.content }}", "Sure. {{ m.content }}"), NOT_THE_REPLY),
    ],
    ids=["right", "no BOS", "two BOS", "another reply", "more than the reply", "more before the reply"],
)
def test_a_template_that_changes_the_text_of_a_row_is_reported(with_bos, template, found):
    made = instruction_row({"prompt": PROMPT, "response": REPLY}, with_bos(template), 64)
    assert (made["dropped"] or made["faults"]) == found


def test_faults_are_counted_and_reported(tokenizer):
    rows = [{"prompt": PROMPT, "chosen": chosen, "rejected": "red"} for chosen in ("", "Ann <|user|>", REPLY)]
    stats = SplitStats("train", rows=3)
    settings = config(RewardConfig, max_length=64)
    assert len(encode_comparisons(Dataset.from_list(rows), tokenizer, stats, settings)) == 3
    assert stats.faults == {Fault.EMPTY_CHOSEN: 1, Fault.SPECIAL: 1}
    assert "; of those kept, 1 whose chosen response is empty, 1 with the text of a special" in str(stats)


def test_rows_that_are_all_dropped_at_first_do_not_decide_the_columns(tokenizer):
    rows = [{"prompt": PROMPT, "response": "" if index < 1500 else REPLY} for index in range(1600)]
    stats = SplitStats("train", rows=1600)
    assert len(encode_instructions(Dataset.from_list(rows), tokenizer, stats, config(max_dropped=1.0))) == 100


def test_a_long_reply_is_cut_and_counted(tokenizer):
    row = instruction_row({"prompt": PROMPT, "response": LONG}, tokenizer, 64)
    assert (len(row["input_ids"]), len(row["labels"]), row["cut"], row["dropped"]) == (64, 64, True, "")


def in_parts(turn: dict) -> dict:
    """Return a turn with its content in two parts, one of them with an empty field added by Arrow."""
    half = len(turn["content"]) // 2
    parts = [{"type": "text", "text": turn["content"][:half], "image": None}, {"text": turn["content"][half:]}]
    return turn | {"content": parts}


@pytest.mark.parametrize(
    ("encoder", "row", "limit"),
    [
        (instruction_row, {"messages": [TURN, ANSWER]}, 64),
        (preference_row, {"prompt": [TURN], "chosen": [ANSWER], "rejected": [EMPTY | {"content": "red"}]}, 64),
        (prompt_row, {"prompt": [TURN]}, 64),
    ],
)
def test_content_in_parts_is_their_text_whatever_the_template(with_template, encoder, row, limit):
    tokenizer, parts = with_template(TURNS), {key: [*map(in_parts, turns)] for key, turns in row.items()}
    assert encoder(parts, tokenizer, limit) | row == encoder(row, tokenizer, limit) | row


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"content": [{"type": "image"}]}, "with content that is not text: image"),
        ({"content": None, "text": "Ann"}, "with messages whose text is in 'text' instead of 'content'"),
        ({"content": None, "parts": [{"text": "Ann"}]}, "with messages whose text is in 'parts' instead of 'content'"),
        ({"content": [{"type": "image", "text": "Ann"}]}, "with content that is not text"),
        ({"content": ["Ann"]}, "with content that is not text"),
        ({"tool_calls": [{"function": "who"}]}, "tool_calls that name no function"),
        ({"tool_calls": ["who"]}, "tool_calls that are not a list of calls"),
        ({"tool_calls": 5}, "tool_calls that are not a list of calls"),
    ],
)
def test_a_turn_that_cannot_be_read_drops_its_row(tokenizer, turn, reason):
    messages = [TURN, ANSWER | turn]
    assert instruction_row({"messages": messages}, tokenizer, 64)["dropped"].startswith(reason)


def test_json_text_next_to_messages_stays_text(tokenizer, rows_file):
    rows = [{"prompt": prompt, "response": REPLY} for prompt in ("7", PROMPT, [TURN])]
    loaded = load_entry(DatasetEntry(**rows_file(rows)[0]), INSTRUCTIONS)
    assert [row["prompt"][0]["content"] for row in loaded] == ["7", PROMPT, TURN["content"]]
    assert [instruction_row(row, tokenizer, 64)["dropped"] for row in loaded] == ["", "", ""]


def test_without_a_template_the_text_of_a_special_token_is_its_characters(with_template):
    bare, text = with_template(None), "red <|endoftext|> blue"
    made = instruction_row({"prompt": f"{PROMPT} <|user|>", "response": text}, bare, 128)
    assert (made["dropped"], made["faults"]) == ("", Fault.SPECIAL.name)
    special = [token for token in made["input_ids"] if token in bare.all_special_ids]
    assert special == [bare.eos_token_id] == made["input_ids"][-1:]
    prompt = prompt_row({"prompt": f"{PROMPT} <|user|>"}, bare, 128)["input_ids"]
    assert made["input_ids"][: len(prompt)] == prompt


@pytest.mark.parametrize("encoder", [instruction_row, prompt_row])
def test_messages_without_a_template_are_dropped_for_that(with_template, encoder):
    row = {"messages": [TURN, ANSWER], "prompt": [TURN, ANSWER]}
    assert encoder(row, with_template(None), 64)["dropped"] == "messages need a chat template: set chat_template"


@pytest.mark.parametrize(
    ("encode", "row"),
    [
        (encode_instructions, {"prompt": "Who?", "response": "Ann."}),
        (encode_comparisons, {"prompt": "Who?", "chosen": "Ann.", "rejected": "Bob."}),
        (encode_prompts, {"prompt": "Who?"}),
    ],
)
def test_prompts_without_a_template_are_warned_of(with_template, tokenizer, capsys, encode, row):
    settings = {"max_length": 64, "max_prompt_length": 64, "score_margin": 0.0, "max_dropped": 0.1}
    given = SimpleNamespace(**settings, dataset_num_proc=1)
    for used, is_warned in ((with_template(None), True), (tokenizer, False)):
        encode(Dataset.from_list([row]), used, SplitStats("train"), given)
        assert ("the tokenizer has no chat template" in capsys.readouterr().err) is is_warned


def test_the_cost_of_a_long_conversation_depends_on_its_kept_part(tokenizer, monkeypatch):
    """Each turn is rendered with all before it: turns that are cut off must not cost the square of their length."""
    calls, apply = [], type(tokenizer).apply_chat_template
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", lambda *a, **k: calls.append(1) or apply(*a, **k))
    messages = [TURN, ANSWER] * 40
    cut, whole = instruction_row({"messages": messages}, tokenizer, 64), len(calls)
    assert whole < 12
    full = instruction_row({"messages": messages}, tokenizer, 10_000)
    assert len(calls) - whole >= 80
    assert (cut["input_ids"], cut["labels"]) == (full["input_ids"][:64], full["labels"][:64])
    assert (cut["length"], cut["cut"], cut["faults"]) == (full["length"], True, full["faults"])


@pytest.mark.parametrize("limit", range(1, 130, 3))
def test_a_row_that_is_cut_has_the_labels_of_the_whole_one(tokenizer, limit):
    messages = [TURN, ANSWER, OTHER, ANSWER, TURN, ANSWER]
    cut, full = (instruction_row({"messages": messages}, tokenizer, most) for most in (limit, 1_000))
    assert (cut["length"], full["faults"]) == (full["length"], "")
    assert (cut["input_ids"], cut["labels"]) == (full["input_ids"][:limit], full["labels"][:limit])
    assert cut["faults"] == ""


def test_a_long_prompt_is_dropped_whole(tokenizer):
    assert prompt_row({"prompt": LONG}, tokenizer, 64)["dropped"] == "longer than max_prompt_length=64"
    assert prompt_row({"prompt": ""}, tokenizer, 64)["dropped"] == "empty"


def test_documents_are_packed_with_end_of_text_between_them(tokenizer):
    texts = ["Ann likes red.", "", "Bob likes blue.", "Cid likes green and pink."]
    stats = SplitStats("train", rows=4, kept=4)
    rows, tokens_per_byte = pack_documents(
        Dataset.from_dict({"text": texts}), tokenizer, stats, config(PretrainConfig, block_size=8, max_dropped=0.25)
    )
    joined = "<|endoftext|>".join([text for text in texts if text] + [""])
    ids = [token for row in rows["input_ids"] for token in row]
    assert joined.startswith(tokenizer.decode(ids))
    assert stats.tokens - 8 < len(ids) <= stats.tokens
    assert {len(row) for row in rows["input_ids"]} == {8}
    assert (stats.kept, stats.dropped) == (3, {"empty": 1})
    assert tokens_per_byte == stats.tokens / len("".join(texts).encode())


@pytest.mark.parametrize("dropped", [{}, {"also held out": 1}])
def test_losing_documents_past_a_threshold_is_refused(tokenizer, dropped):
    rows = Dataset.from_dict({"text": ["Ann likes red."] * 8 + [""] * (2 - len(dropped))})
    remedy = "Remove the rows with held-out prompts from the training files" if dropped else "Fix the rows"
    with pytest.raises(HfkitError, match=rf"{remedy}, or raise max_dropped \(0\.1\)") as reported:
        pack_documents(rows, tokenizer, SplitStats("train", rows=10, dropped={**dropped}), config(PretrainConfig))
    assert "10 rows, 8 kept, 2 dropped" in str(reported.value)
    settings = config(PretrainConfig, block_size=8, max_dropped=0.2)
    assert len(pack_documents(rows, tokenizer, SplitStats("train", rows=10, dropped={**dropped}), settings)[0]) > 0


def test_documents_that_fill_no_row_are_refused(tokenizer):
    rows = Dataset.from_dict({"text": ["Ann."]})
    with pytest.raises(HfkitError, match="do not fill one row of block_size=512: lower it"):
        pack_documents(rows, tokenizer, SplitStats("train", rows=1), config(PretrainConfig, block_size=512))


def test_pain_02_the_last_label_of_every_row_that_was_not_cut_is_end_of_text(tokenizer):
    rows = [{"prompt": PROMPT, "response": reply} for reply in (REPLY, "red", LONG)]
    stats = SplitStats("train", rows=3)
    encoded = encode_instructions(Dataset.from_list(rows), tokenizer, stats, config(max_length=64, max_dropped=1.0))
    assert [labels[-1] == tokenizer.eos_token_id for labels in encoded["labels"]] == [True, True, False]
    assert (stats.kept, stats.cut) == (3, 1)


def test_pain_16_a_prompt_ends_with_the_generation_prompt_that_the_reward_model_saw(tokenizer):
    prompt = prompt_row({"prompt": PROMPT}, tokenizer, 64)["input_ids"]
    assert tokenizer.decode(prompt).endswith("<|assistant|>\n")
    pair = preference_row({"prompt": PROMPT, "chosen": REPLY, "rejected": "red"}, tokenizer, 64)
    assert pair["chosen_ids"][: len(prompt)] == pair["rejected_ids"][: len(prompt)] == prompt


LOSSES = {
    "sft": (
        encode_instructions,
        {"max_length": 64},
        lambda long: {"prompt": LONG if long else PROMPT, "response": REPLY},
    ),
    "reward": (
        encode_comparisons,
        {"kind": RewardConfig, "max_length": 64},
        lambda long: {"prompt": PROMPT, "chosen": LONG if long else REPLY, "rejected": "red"},
    ),
}


@pytest.mark.parametrize("stage", LOSSES)
@pytest.mark.parametrize("long_rows", [1, 2, 10])
def test_losing_rows_is_counted_and_past_a_threshold_refused(tokenizer, stage, long_rows):
    encoder, limits, row = LOSSES[stage]
    rows = Dataset.from_list([row(number < long_rows) for number in range(10)])
    stats = SplitStats("train", rows=10)
    if long_rows == 1:
        assert len(encoder(rows, tokenizer, stats, config(**limits))) == 9
        assert f"10 rows, 9 kept, 1 dropped (1 {next(iter(stats.dropped))})" in str(stats)
        return
    lengths = r"The median row is \d+ tokens long, and nine of ten rows have at most \d+\. Fix the rows, raise"
    with pytest.raises(HfkitError, match=lengths) as reported:
        encoder(rows, tokenizer, stats, config(**limits))
    assert f"{10 - long_rows} kept, {long_rows} dropped" in str(reported.value)
    if long_rows == 2:
        assert len(encoder(rows, tokenizer, stats, config(**limits, max_dropped=0.2))) == 8


def test_prompts_keep_what_rewards_are_computed_from(tokenizer):
    from hfkit.config.stages import PPOConfig

    rows = Dataset.from_list([{"prompt": PROMPT}])
    encoded = encode_prompts(rows, tokenizer, SplitStats("train", rows=1), config(PPOConfig))
    assert {*encoded.column_names} == {"input_ids", "prompt"}
    assert encoded[0]["prompt"] == PROMPT
