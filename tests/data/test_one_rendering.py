"""A conversation is rendered in the same way everywhere: weights, variables, named templates, the end of a turn."""

import copy
import json

import pytest
import torch
from datasets import Dataset
from template_families import FAMILIES
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
)

from hfkit.commands.chat.conversation import encode_messages
from hfkit.config.stages import PPOConfig, SFTConfig
from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import encode_prompt, encode_replies, reply_ending, split_conversation, turn_end_ids
from hfkit.data.forms import IGNORE, encode_instructions, encode_prompts, instruction_row
from hfkit.data.messages import RenderError
from hfkit.data.rendering import set_template_kwargs, template_kwargs
from hfkit.data.reply_tokens import NO_THINKING
from hfkit.data.splits import SplitStats
from hfkit.hub.cards.run_info import RunInfo
from hfkit.hub.cards.usage import usage_section
from hfkit.models.generation import stop_ids
from hfkit.models.reward_model import RewardModel
from hfkit.models.saving import save_model
from hfkit.models.tokenizers import load_stage_tokenizer, read_tokenizer

USER, AGAIN = {"role": "user", "content": "Where is Oslo?"}, {"role": "user", "content": "And Rome?"}
ANSWER = {"role": "assistant", "content": "Oslo is in Norway."}
SECOND = {"role": "assistant", "content": "Rome is in Italy."}
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OFF = {"enable_thinking": False}


def trained_texts(tokenizer, row: dict) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != IGNORE])


def test_a_message_with_the_weight_0_is_read_and_not_trained_on(tokenizer_for):
    tokenizer = tokenizer_for("ChatML")
    messages = [USER, {**ANSWER, "weight": 0}, AGAIN, {**SECOND, "weight": 1}]
    row = instruction_row({"messages": messages}, tokenizer, 256)
    assert trained_texts(tokenizer, row) == "Rome is in Italy.<|im_end|>"
    assert "Oslo is in Norway." in tokenizer.decode(row["input_ids"])
    assert instruction_row({"messages": [USER, {**ANSWER, "weight": 0}]}, tokenizer, 256)["dropped"].startswith(
        "with no response to train on"
    )
    half = instruction_row({"messages": [USER, {**ANSWER, "weight": 0.5}]}, tokenizer, 256)
    assert half["dropped"] == "with a message whose weight is neither 0 nor 1"


def test_each_reply_is_a_row_where_the_template_rewrites_earlier_ones(tokenizer_for):
    tokenizer, rows = tokenizer_for("Qwen 3"), [[USER, ANSWER], [USER, ANSWER, AGAIN, SECOND], [USER, ANSWER]]
    stats = SplitStats("train", rows=3)
    config = SFTConfig(output_dir="unused", max_length=256)
    encoded = encode_instructions(Dataset.from_dict({"messages": rows}), tokenizer, stats, config)
    texts = [tokenizer.decode(row["input_ids"]) for row in encoded]
    assert {*encoded.column_names} >= {"input_ids", "labels"} and "parts" not in encoded.column_names
    assert [text.count("<|im_start|>assistant") for text in texts] == [1, 1, 2, 1]
    assert [trained_texts(tokenizer, row) for row in encoded][1:3] == [
        "<think>\n\n</think>\n\nOslo is in Norway.<|im_end|>",
        "<think>\n\n</think>\n\nRome is in Italy.<|im_end|>",
    ]
    assert (stats.kept, stats.split_into) == (3, 4)
    assert "4 after the split at responses" in str(stats)
    assert stats.tokens == sum(len(row["input_ids"]) for row in encoded)


def test_a_reply_past_the_limit_of_a_conversation_that_is_split_counts_as_cut(tokenizer_for):
    tokenizer = tokenizer_for("Qwen 3")
    whole = instruction_row({"messages": [USER, ANSWER, AGAIN, SECOND]}, tokenizer, 1000)
    row = instruction_row({"messages": [USER, ANSWER, AGAIN, SECOND]}, tokenizer, whole["parts"][0])
    assert (row["cut"], row["dropped"], row["parts"]) == (True, "", whole["parts"][:1])


def test_a_reply_that_lacks_the_thinking_which_the_prompt_opens_is_refused_everywhere(tokenizer_for):
    tokenizer = tokenizer_for("DeepSeek R1")
    assert instruction_row({"messages": [USER, ANSWER]}, tokenizer, 256)["dropped"] == NO_THINKING
    with pytest.raises(RenderError, match="without the thinking"):
        encode_replies(tokenizer, [USER], ["Oslo."])
    thought = "<think>\nI know.\n</think>\n\nOslo."
    ids = encode_replies(tokenizer, [USER], [thought])[0]
    assert ids[: len(encode_prompt(tokenizer, [USER]))] == encode_prompt(tokenizer, [USER])
    assert tokenizer.decode(ids).endswith("<|Assistant|><think>\nI know.\n</think>\n\nOslo.<|eos|>")
    sampled = "I know.\n</think>\n\nOslo."  # a response that a policy samples after that prompt
    assert encode_replies(tokenizer, [USER], [sampled]) == [ids]


def test_variables_of_the_template_are_a_key_a_column_and_kept_by_the_tokenizer(tokenizer_for, tmp_path):
    tokenizer = tokenizer_for("Qwen 3")
    closed = encode_prompt(tokenizer, [USER], None, OFF)
    assert tokenizer.decode(closed).endswith("<think>\n\n</think>\n\n")
    for given in (OFF, json.dumps(OFF)):
        row = instruction_row({"messages": [USER, ANSWER], "chat_template_kwargs": given}, tokenizer, 256)
        assert row["input_ids"][: len(closed)] == closed
        assert trained_texts(tokenizer, row) == "Oslo is in Norway.<|im_end|>"
        rows = Dataset.from_list([{"prompt": "Where is Oslo?", "chat_template_kwargs": given}])
        config = PPOConfig(output_dir="unused", max_prompt_length=64)
        assert encode_prompts(rows, tokenizer, SplitStats("train", rows=1), config)["input_ids"][0] == closed
    set_template_kwargs(tokenizer, OFF)
    tokenizer.save_pretrained(tmp_path)
    loaded = read_tokenizer(str(tmp_path))
    assert template_kwargs(loaded) == OFF
    assert encode_prompt(loaded, [USER]) == encode_messages(loaded, [USER], None) == closed
    changed = read_tokenizer(str(tmp_path), chat_template_kwargs={"enable_thinking": True})
    assert encode_prompt(changed, [USER]) != closed
    bad = instruction_row({"messages": [USER, ANSWER], "chat_template_kwargs": "[1]"}, tokenizer, 256)
    assert bad["dropped"] == "chat_template_kwargs that are not a mapping"


def test_a_variable_that_the_template_does_not_read_is_refused(tokenizer_for, tmp_path):
    tokenizer_for("Qwen 3").save_pretrained(tmp_path)
    options = {"output_dir": "unused", "model_name_or_path": str(tmp_path)}
    assert template_kwargs(load_stage_tokenizer(SFTConfig(**options, chat_template_kwargs=OFF))) == OFF
    with pytest.raises(HfkitError, match="has no variable enable_thinkng; it reads enable_thinking"):
        load_stage_tokenizer(SFTConfig(**options, chat_template_kwargs={"enable_thinkng": False}))


def test_a_named_template_is_chosen_or_the_one_for_chats(tokenizer_for, tmp_path):
    tokenizer, chat = tokenizer_for("ChatML"), FAMILIES["ChatML"].template
    prompt = encode_prompt(tokenizer, [USER])
    tokenizer.chat_template = {"chat": chat, "tool_use": "{{ tools }}" + chat, "rag": "x"}
    tokenizer.save_pretrained(tmp_path / "a")
    assert encode_prompt(read_tokenizer(str(tmp_path / "a")), [USER]) == prompt
    assert tokenizer.decode(encode_prompt(read_tokenizer(str(tmp_path / "a"), chat_template="rag"), [USER])) == "x"
    with pytest.raises(HfkitError, match=r"chat_template: other is not a file, and the tokenizer of .* has chat"):
        read_tokenizer(str(tmp_path / "a"), chat_template="other")
    tokenizer.chat_template = {"rag": chat, "tool_use": chat}
    tokenizer.save_pretrained(tmp_path / "b")
    with pytest.raises(HfkitError, match="no default: set chat_template to "):
        read_tokenizer(str(tmp_path / "b"))


ENDS = {
    "Gemma 2": "<end_of_turn>",
    "Phi 3": "<|end|>",
    "Phi 4 mini": "<|end|>",
    "Llama 3 base": "<|eot_id|>",
    "GLM 4": "<|user|>",
    "Yi": "<|im_end|>",
    "Falcon 3": "<|endoftext|>",
    "gpt-oss": "<|return|>",
    "Gemma 4": "<turn|>",
    "End-of-text twice": "<|endoftext|>",
    "hfkit": "<|endoftext|>",
}
CALL_ENDS = {"GLM 4": "<|observation|>", "gpt-oss": "<|call|>", "Gemma 4": "<|tool_response>"}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_turn_is_trained_stops_sampling_and_is_saved(tokenizer_for, name, tmp_path):
    tokenizer = tokenizer_for(name)
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    calls = [tokenizer.convert_tokens_to_ids(CALL_ENDS[name])] if name in CALL_ENDS else []
    assert turn_end_ids(tokenizer) == [*dict.fromkeys([tokenizer.eos_token_id, end, *calls])]
    assert {ids[-1] for ids, _ in split_conversation(tokenizer, [USER], "Oslo.")} == {end}
    assert end in stop_ids(GenerationConfig(eos_token_id=tokenizer.eos_token_id), tokenizer)
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **SHAPE)
    model = AutoModelForCausalLM.from_config(config)
    save_model(model, tokenizer, tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    assert {end, tokenizer.eos_token_id, *calls} == {*(saved if isinstance(saved, list) else [saved])}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_score_of_the_cards_code_is_the_score_of_hfkit(tokenizer_for, name, tmp_path):
    tokenizer = tokenizer_for(name)
    tokenizer.save_pretrained(tmp_path)
    record = {"stage": "reward", "config": {}, "reply_ending": reply_ending(tokenizer)}
    code = usage_section(RunInfo(tmp_path, record))
    assert ("apply_chat_template" in code) == (name not in ("DeepSeek R1", "QwQ", "Gemma 4"))
    line = next((line for line in code.splitlines() if line.startswith("text = text[")), None)
    if line is None:
        return  # its card uses only hfkit
    line = line.replace("It is Paris.", "Oslo is in Norway.")
    text = tokenizer.apply_chat_template([USER, ANSWER], tokenize=False)
    scope = {"text": text, "tokenizer": tokenizer}
    exec(line, scope)
    ids = tokenizer(scope["text"], add_special_tokens=False).input_ids
    torch.manual_seed(0)
    settings = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **SHAPE, **settings)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    plain = model(input_ids=torch.tensor([ids])).logits.item()
    assert plain == pytest.approx(RewardModel(copy.deepcopy(model), tokenizer)([[USER]], [[ANSWER]]).item(), abs=1e-6)
