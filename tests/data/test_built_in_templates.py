"""Built-in chat templates: the text of each, the tokens that they need, and the keys that may name them.

`test_templates.py` runs them through every stage, as "built-in NAME".
"""

import pytest
from small_models import model_of
from template_families import BUILT_IN
from transformers import GenerationConfig

from hfkit.core.errors import ConfigError
from hfkit.data.built_in_templates import BUILT_IN_TOKENS
from hfkit.models.tokenizers import load_tokenizer, read_tokenizer

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Oslo?"}
ANSWER = {"role": "assistant", "content": "In Norway."}
AGAIN = {"role": "user", "content": "And Rome?"}
TEXTS = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is Oslo?<|im_end|>\n"
    "<|im_start|>assistant\nIn Norway.<|im_end|>\n<|im_start|>user\nAnd Rome?<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<bos><start_of_turn>user\nBe brief.\n\nWhere is Oslo?<end_of_turn>\n<start_of_turn>model\n"
    "In Norway.<end_of_turn>\n<start_of_turn>user\nAnd Rome?<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhere is Oslo?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nIn Norway.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nAnd Rome?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\nWhere is Oslo? [/INST] In Norway.</s>[INST] And Rome? [/INST]",
    "qwen3": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is Oslo?<|im_end|>\n"
    "<|im_start|>assistant\nIn Norway.<|im_end|>\n<|im_start|>user\nAnd Rome?<|im_end|>\n<|im_start|>assistant\n",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nWhere is Oslo?</s>\n<|assistant|>\nIn Norway.</s>\n"
    "<|user|>\nAnd Rome?</s>\n<|assistant|>\n",
}


@pytest.fixture
def saved(tokenizer_for, tmp_path):
    """saved(family) -> the folder of a family's tokenizer, without a chat template."""

    def save(family: str) -> str:
        tokenizer = tokenizer_for(family)
        tokenizer.chat_template = None
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return str(tmp_path / "tokenizer")

    return save


@pytest.mark.parametrize("name", BUILT_IN_TOKENS)
def test_a_built_in_template_writes_its_format(name, saved):
    tokenizer = read_tokenizer(saved(BUILT_IN[name]), chat_template=name)
    messages = [SYSTEM, USER, ANSWER, AGAIN]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == TEXTS[name]


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3", "qwen3"])
def test_a_vocabulary_without_the_tokens_is_refused_with_what_to_set(name, config_of, base_dir, tmp_path, no_weights):
    with pytest.raises(ConfigError) as error:
        config_of("sft", tmp_path / "out", chat_template=name)
    [problem] = error.value.problems
    assert problem.key == "chat_template"
    assert problem.remedy.startswith(f"{name} needs {' '.join(BUILT_IN_TOKENS[name])}, which the vocabulary lacks")
    assert problem.remedy.endswith("set mistral or zephyr")


def test_an_unknown_name_is_refused_with_the_known_ones(config_of, tmp_path):
    with pytest.raises(
        ConfigError, match=r"chatm is not a file, and .*; built in: chatml, gemma, llama3, mistral, qwen3"
    ):
        config_of("sft", tmp_path / "out", chat_template="chatm")


def test_files_and_own_templates_go_before_built_in_ones(tokenizer_for, tmp_path, monkeypatch):
    tokenizer = tokenizer_for("ChatML")
    tokenizer.chat_template = {"default": "a", "zephyr": "own"}
    tokenizer.save_pretrained(tmp_path / "named")
    assert read_tokenizer(str(tmp_path / "named"), chat_template="zephyr").chat_template == "own"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zephyr").write_text("of a file")
    assert read_tokenizer(str(tmp_path / "named"), chat_template="zephyr").chat_template == "of a file"


def test_a_tokenizer_is_trained_with_the_tokens_of_a_built_in_template(run_stage, tmp_path):
    folder = run_stage("tokenizer", tmp_path / "out", chat_template="chatml")
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer.apply_chat_template([USER, ANSWER], return_dict=False)
    assert tokenizer.decode(ids) == TEXTS["chatml"].partition("system\nBe brief.<|im_end|>\n<|im_start|>")[0] + (
        "user\nWhere is Oslo?<|im_end|>\n<|im_start|>assistant\nIn Norway.<|im_end|>\n"
    )
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ids and "<|user|>" not in tokenizer.get_vocab()


def test_a_run_with_a_built_in_template_ends_turns_with_its_token(saved, run_stage, tmp_path):
    """The tokenizers of Yi end a text with another token, as those of many base models do."""
    folder = saved("Yi")
    tokenizer = read_tokenizer(folder)
    model_of("llama", len(tokenizer)).save_pretrained(folder)
    out = run_stage("sft", tmp_path / "out", model_name_or_path=folder, chat_template="chatml", max_steps=1)
    tokenizer = load_tokenizer(str(out))
    assert tokenizer.apply_chat_template([USER], tokenize=False) == "<|im_start|>user\nWhere is Oslo?<|im_end|>\n"
    ends = GenerationConfig.from_pretrained(out).eos_token_id
    assert {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")} <= {*ends}
