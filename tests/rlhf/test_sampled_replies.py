"""A reward model reads a sampled response as in its training: the prompt with its tools, and one ending."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification

from hfkit.data.chat_template import encode_prompt, encode_replies, encode_sampled, end_as_trained, turn_end_ids
from hfkit.evaluation.reward_model import probe_reward_model
from hfkit.models.reward_model import RewardModel
from hfkit.rlhf.policy_evaluation import sample_lines
from hfkit.rlhf.rewards import Scorer, validate_rendering

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
USER = {"role": "user", "content": "Where is Oslo?"}
TOOLS = [{"type": "function", "function": {"name": "find", "description": "Find it.", "parameters": {}}}]
OFF = {"enable_thinking": False}


def reward_model(tokenizer) -> RewardModel:
    torch.manual_seed(0)
    settings = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 1.0}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **SHAPE, **settings)
    return RewardModel(AutoModelForSequenceClassification.from_config(config), tokenizer)


@pytest.mark.parametrize(
    ("name", "sampled", "trained"),
    [
        ("Llama 3 base", "<|end_of_text|>", "<|eot_id|>"),
        ("Yi", "<|endoftext|>", "<|im_end|>"),
        ("Gemma 2", "<eos>", "<end_of_turn>"),
        ("GLM 4", "<|endoftext|>", "<|user|>"),
        ("GLM 4", "<|observation|>", "<|observation|>"),  # ends a turn of tool calls
        ("Command R7B", "<|END_OF_TURN|>", "<|END_OF_TURN|>"),
    ],
)
def test_a_reply_that_ended_with_another_stop_token_is_scored_with_the_end_that_was_trained(
    tokenizer_for, name, sampled, trained
):
    tokenizer = tokenizer_for(name)
    stop_tokens = [*turn_end_ids(tokenizer), tokenizer.convert_tokens_to_ids(sampled)]
    prompt, reply = encode_prompt(tokenizer, [USER]), tokenizer("In Norway.", add_special_tokens=False).input_ids
    ended, as_trained = ([*reply, tokenizer.convert_tokens_to_ids(end)] for end in (sampled, trained))
    assert end_as_trained(tokenizer, ended, stop_tokens) == as_trained
    assert end_as_trained(tokenizer, reply, stop_tokens) == reply, "one that was cut short has no end"
    model = reward_model(tokenizer)
    scorer = Scorer(tokenizer, model, stop_token_ids=stop_tokens)
    expected = model.score_ids([prompt + as_trained])
    assert torch.equal(scorer([prompt], [ended], [{"prompt": [USER]}])["model"], expected)
    if sampled != trained:
        assert not torch.equal(model.score_ids([prompt + ended]), expected)


def test_a_reward_model_with_another_tokenizer_reads_the_tools_and_the_variables_of_a_row(tokenizer_for):
    policy, reader = tokenizer_for("ChatML"), tokenizer_for("Qwen 3")
    model = reward_model(reader)
    scorer = Scorer(policy, model, same_ids=False)
    reply = policy("In Norway.<|im_end|>", add_special_tokens=False).input_ids
    for options in ({}, {"tools": TOOLS}, {"chat_template_kwargs": OFF}, {"tools": TOOLS, "chat_template_kwargs": OFF}):
        row = {"prompt": [USER], **options}
        given = options.get("tools"), options.get("chat_template_kwargs")
        expected = model.score_ids(encode_replies(reader, [USER], ["In Norway."], *given))
        assert torch.equal(scorer([[5]], [reply], [row])["model"], expected)
        assert torch.equal(model.score_sampled([row], ["In Norway."]), expected)


def test_thinking_that_was_cut_short_is_scored_as_it_was_sampled(tokenizer_for):
    policy, reader = tokenizer_for("ChatML"), tokenizer_for("DeepSeek R1")
    model = reward_model(reader)
    validate_rendering(reader, {"prompt": [USER]})
    reply = policy("I think of Oslo", add_special_tokens=False).input_ids
    ids = encode_sampled(reader, [USER], "I think of Oslo")
    assert reader.decode(ids) == "<|bos|><|User|>Where is Oslo?<|Assistant|><think>\nI think of Oslo<|eos|>"
    assert torch.equal(
        Scorer(policy, model, same_ids=False)([[5]], [reply], [{"prompt": [USER]}])["model"], model.score_ids([ids])
    )


def test_probes_of_a_reward_model_end_worthless_replies_as_real_ones_end(tokenizer_for):
    tokenizer = tokenizer_for("Gemma 2")
    model = reward_model(tokenizer)
    rows = [{"prompt": f"{city}?", "chosen": "In Norway.", "rejected": "No."} for city in ("Oslo", "Rome")]
    probes = probe_reward_model(model, SimpleNamespace(rows=Dataset.from_list(rows), max_length=256))
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    empty = model.score_ids([[*encode_prompt(tokenizer, row["prompt"]), end] for row in rows])
    assert probes["empty"]["mean"] == pytest.approx(empty.mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("GLM 4", ["<|endoftext|>", "<|user|>", "<|observation|>"]),
        ("Hermes 3", ["<|im_end|>"]),
        ("ChatML", ["<|im_end|>"]),
    ],
)
def test_what_ends_a_turn_of_tool_calls_stops_sampling_too(tokenizer_for, name, ends):
    tokenizer = tokenizer_for(name)
    assert tokenizer.convert_ids_to_tokens(turn_end_ids(tokenizer)) == ends


def test_the_last_question_of_a_prompt_is_shown_with_both_responses():
    turns = [("system", "Be brief."), ("user", "Ann?"), ("assistant", ""), ("tool", "red"), ("user", "And Bob?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    sample = {"prompt": "<|im_start|>...", "messages": messages, "before": "Blue.\n", "after": "Bob likes blue."}
    assert sample_lines(sample) == "  'And Bob?'\n    before: 'Blue.\\n'\n    after:  'Bob likes blue.'"
    assert sample_lines(sample | {"messages": messages[:4]}).startswith("  'Ann?'\n")
    assert sample_lines(sample | {"messages": []}).startswith("  '<|im_start|>...'\n")
