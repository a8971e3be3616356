"""Configs of models, adapters and tokenizers that attack: each ends in a sentence, before memory is taken."""

import json

import pytest
from hostile_models import change_json, inputs

MODEL_CONFIGS = pytest.mark.hostile("model configs")
CODE = "import pathlib; pathlib.Path({!r}).touch()"
NESTED = '{"a":' * 100_000 + "1" + "}" * 100_000

CONFIGS = {
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    "negative layers": ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "a size of zero": ({"hidden_size": 0}, "hidden_size is 0"),
    "a textual size": ({"hidden_size": "64"}, "hidden_size is '64'"),
    "a list of sizes": ({"hidden_size": [64]}, "hidden_size is [64]"),
    "a nested size": ({"hidden_size": {"a": 1}}, "hidden_size is {'a': 1}"),
    "an infinite size": ({"hidden_size": float("inf")}, "hidden_size is inf"),
    "a size of null": ({"hidden_size": None}, "config.json"),
    "a size of true": ({"hidden_size": True}, "hidden_size is True"),
    "a vocabulary of 10^12": ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    "a width of 10^12": ({"intermediate_size": 10**12}, "intermediate_size is 1000000000000"),
    "heads that do not divide": ({"num_attention_heads": 7}, "the number of attention heads (7)"),
    "a billion heads": ({"num_attention_heads": 10**9}, "num_attention_heads is 1000000000"),
    "10^9 positions": ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000"),
    "tables of 10^8 positions": (
        {"model_type": "gptj", "max_position_embeddings": 10**8, "rotary_dim": 16},
        "tables of positions",
    ),
    "layers of experts": (
        {"model_type": "mixtral", "num_hidden_layers": 1000, "num_local_experts": 16000},
        "1000 layers * 16000 experts",
    ),
    "a text model within": ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers is 1000000000"),
    "a number of 5000 digits": ({"hidden_size": 2**4000}, "hidden_size is a number of 4001 bits"),
    "an attention kernel of the Hub": (
        {"_attn_implementation": "kernels-community/flash-attn"},
        "_attn_implementation is 'kernels-community/flash-attn'",
    ),
    "kernels for parts": ({"attn_implementation": {"text_config": "evil/kernel:run"}}, "attn_implementation is"),
    "kernels of experts": ({"_experts_implementation": "evil/kernel"}, "_experts_implementation is"),
    "a dtype that is a function": ({"dtype": "load"}, "dtype is 'load'"),
    "a dtype of another module": ({"dtype": ..., "torch_dtype": "os.system"}, "torch_dtype is 'os.system'"),
    "an unknown quantization": ({"quantization_config": {"quant_method": "evil"}}, "quant_method"),
    "a quantization by code": ({"quantization_config": {"quant_method": ["os.system"]}}, "quant_method"),
    "other weights": ({"transformers_weights": "../../secret.safetensors"}, "transformers_weights is"),
    "code for an unknown architecture": (
        {"model_type": "evil", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}},
        "config.json",
    ),
    "an architecture that is a list": ({"model_type": ["llama"]}, "config.json"),
}


@MODEL_CONFIGS
@pytest.mark.parametrize(("changes", "sentence"), inputs(CONFIGS))
def test_a_hostile_config_ends_a_run_before_it_starts(attack, model, sft, canary, changes, sentence):
    (model / "code.py").write_text(CODE.format(str(canary)))
    change_json(model / "config.json", **changes)
    ran = attack(*sft(model))
    assert ran.status in (1, 2) and sentence in ran.output, ran.output


VERBS = ("evaluate", "merge", "export", "arena", "ppo", "reward", "pretrain")


@MODEL_CONFIGS
@pytest.mark.parametrize(
    "verb",
    ["plan", "chat", *(pytest.param(one, marks=pytest.mark.slow) for one in VERBS)],
)
def test_each_verb_that_reads_a_model_knows_the_bounds(attack, model, plain_adapter, tmp_path, verb):
    change_json(model / "config.json", num_hidden_layers=10**9)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "response": "b", "chosen": "b", "rejected": "c", "text": "a"}\n' * 4)
    plan = tmp_path / "sft.yaml"
    plan.write_text(f"model_name_or_path: {model}\ndatasets: [{{path: {rows}}}]\noutput_dir: run\n")
    stage = ["--model_name_or_path", model, "--datasets", rows, "--output_dir", tmp_path / "run"]
    arguments = {
        "chat": [model],
        "plan": [plan],
        "evaluate": [model, "--datasets", rows],
        "merge": [plain_adapter, tmp_path / "out", "--base", model],
        "export": [model, tmp_path / "out", "--format", "vllm"],
        "arena": [model, f"b={model}", "--prompts", rows, "--judge", "human"],
    }.get(verb, stage)
    ran = attack(verb, *arguments)
    assert ran.status in (1, 2) and "num_hidden_layers is 1000000000" in ran.output, ran.output


FILES = {
    "a config that is a list": ("config.json", "[1, 2]", "config.json is not a JSON mapping"),
    "a config that is nested": ("config.json", NESTED, "nested more than"),
    "a config that is nothing": ("config.json", "", "config.json cannot be read"),
    "a config of 65 MB": ("config.json", " " * (65 << 20), "cannot be read: JSONDecodeError"),
    "a config of bytes": ("config.json", "\x00\x01", "config.json cannot be read"),
    "generation that is a list": ("generation_config.json", "[]", "generation_config.json"),
    "generation that is nested": ("generation_config.json", NESTED, "nested more than"),
    "generation by tokens of text": ("generation_config.json", '{"eos_token_id": "os"}', "eos_token_id"),
    "a tokenizer config that is a list": ("tokenizer_config.json", "[]", "tokenizer_config.json is not a JSON mapping"),
    "a tokenizer config that is nested": ("tokenizer_config.json", NESTED, "nested more than"),
    "a tokenizer that is nested": ("tokenizer.json", NESTED, "nested more than"),
    "a million added tokens": (
        "added_tokens.json",
        json.dumps({f"t{index}": 400 + index for index in range(100_000)}),
        "adds 100000 tokens",
    ),
}


@MODEL_CONFIGS
@pytest.mark.parametrize(("name", "content", "sentence"), inputs(FILES))
def test_a_file_that_is_not_a_config_is_named(attack, model, sft, name, content, sentence):
    (model / name).write_text(content)
    ran = attack(*sft(model))
    assert ran.status in (1, 2) and sentence in ran.output, ran.output


STEPS = {
    "a regular expression that explodes": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
        "'(a+)+$' in its pre_tokenizer repeats a group",
    ),
    "a normalizer that doubles": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40,
            }
        },
        "characters of one",
    ),
    "a normalizer with a book": (
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000}},
        "10000 characters of one",
    ),
    "a million special tokens": (
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<pad>", "type_id": 0}}] * 1000,
                "pair": [],
                "special_tokens": {},
            }
        },
        "adds 1000 tokens to a text",
    ),
    "padding of 10^12": (
        {
            "padding": {
                **{"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None},
                **{"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"},
            }
        },
        "its padding has Fixed: 1000000000000",
    ),
}


@MODEL_CONFIGS
@pytest.mark.parametrize(("changes", "sentence"), inputs(STEPS))
def test_steps_of_a_tokenizer_have_bounds(attack, model, sft, changes, sentence):
    change_json(model / "tokenizer.json", **changes)
    ran = attack(*sft(model))
    assert ran.status in (1, 2) and sentence in ran.output, ran.output


@MODEL_CONFIGS
@pytest.mark.parametrize("verb", ["sft", "chat"])
def test_code_that_comes_with_a_model_is_not_run(attack, model, sft, canary, verb):
    """What Transformers knows itself is loaded without the code."""
    (model / "code.py").write_text(CODE.format(str(canary)))
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(CODE.format(str(canary)))
    auto = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoTokenizer": ["code.T", "code.T"]}
    change_json(model / "config.json", auto_map=auto)
    change_json(model / "tokenizer_config.json", auto_map=auto, tokenizer_class="T")
    (model / "generation_config.json").write_text('{"custom_generate": "code.py", "num_beams": 1000000000}')
    ran = attack(*(sft(model) if verb == "sft" else ["chat", model, "--prompt", "a"]))
    assert "num_beams" in ran.output or ran.status == 0 or "tokenizer" in ran.output, ran.output


ADAPTERS = {
    "a rank of 10^9": ({"r": 10**9}, "r is 1000000000"),
    "a rank of zero": ({"r": 0}, "r is 0"),
    "a negative rank": ({"r": -4}, "r is -4"),
    "a textual rank": ({"r": "8"}, "r in adapter_config.json is '8'"),
    "ranks of 10^9": ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern is 1000000000"),
    "ranks that are a list": ({"rank_pattern": [1]}, "rank_pattern is [1]"),
    "modules that are numbers": ({"target_modules": [1]}, "target_modules is [1]"),
    "modules to save that are a number": ({"modules_to_save": 7}, "modules_to_save is 7"),
    "a regular expression that explodes": ({"target_modules": "(a+)+$"}, "'(a+)+$' repeats a group"),
    "one in the ranks": ({"rank_pattern": {"(.*a){25}": 2}}, "'(.*a){25}' repeats a group"),
    "one in the layers": ({"layers_pattern": ["(a|a)*$"], "layers_to_transform": [0]}, "'(a|a)*$' repeats a group"),
    "a base like an option": ({"base_model_name_or_path": "--x"}, "base_model_name_or_path is '--x'"),
    "a base of 1 MB": ({"base_model_name_or_path": "a" * (1 << 20)}, "base_model_name_or_path is 'aaa"),
    "a base with control characters": ({"base_model_name_or_path": "a\x1b[2Jb"}, "base_model_name_or_path is"),
    "a base that is a URL": ({"base_model_name_or_path": "https://evil.example/model"}, "evil.example"),
    "a base that is a list": ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path in adapter_config.json"),
    "a base that is no model": ({"base_model_name_or_path": "/etc"}, "/etc"),
    "a revision like an option": (
        {"base_model_name_or_path": "some/model", "revision": "--x"},
        "'--x' is not a valid branch",
    ),
    "Megatron's module": (
        {"megatron_config": {"a": 1}, "megatron_core": "code"},
        "megatron_config is {'a': 1}, which would make PEFT load more",
    ),
    "a prompt from a pickle": (
        {"peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "evil.pkl"},
        "prompt_tuning_init_state_dict_path",
    ),
    "10^9 virtual tokens": ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**9}, "num_virtual_tokens is"),
    "adapters of adapters": ({"peft_type": "XLORA", "adapters": {"0": "/elsewhere"}}, "adapters is"),
    "an unknown kind": ({"peft_type": "EVIL"}, "EVIL"),
    "a nested alpha": ({"lora_alpha": [16]}, "lora_alpha in adapter_config.json is [16]"),
}


@MODEL_CONFIGS
@pytest.mark.parametrize(("changes", "sentence"), inputs(ADAPTERS))
def test_a_hostile_adapter_ends_a_run_before_it_starts(attack, adapter, sft, tmp_path, canary, changes, sentence):
    (tmp_path / "code.py").write_text(CODE.format(str(canary)))
    change_json(adapter / "adapter_config.json", **changes)
    ran = attack(*sft(adapter))
    assert ran.status in (1, 2) and sentence in ran.output, ran.output


@pytest.mark.slow
@MODEL_CONFIGS
@pytest.mark.parametrize(
    ("verb", "changes"),
    [
        ("chat", {"r": 10**9}),
        ("merge", {"exclude_modules": "(a+)+$", "target_modules": ["q_proj"]}),
        ("merge", {"megatron_config": {"a": 1}, "megatron_core": "code"}),
        ("export", {"r": 10**9}),
        ("push", {"base_model_name_or_path": "--x"}),
        ("evaluate", {"modules_to_save": 7}),
    ],
)
def test_each_verb_that_reads_an_adapter_knows_the_bounds(attack, adapter, tmp_path, canary, verb, changes):
    (tmp_path / "code.py").write_text(CODE.format(str(canary)))
    change_json(adapter / "adapter_config.json", **changes)
    more = {"merge": [tmp_path / "out"], "export": [tmp_path / "out", "--format", "vllm"], "push": ["me/model"]}
    ran = attack(verb, adapter, *more.get(verb, []))
    assert ran.status in (1, 2) and str(next(iter(changes.values()))) in ran.output, ran.output
