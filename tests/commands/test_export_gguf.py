"""A GGUF file holds the model: llama.cpp gives the same tokens and the same greedy responses.

Needs `llama-cpp-python`, and llama.cpp's converter (see `docs/guides/export.md`).
"""

import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import NAMES, SHAPE
from template_families import FAMILIES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hfkit.cli import main
from hfkit.commands.export.converter import SCRIPT, VARIABLE
from hfkit.commands.export.main import export
from hfkit.core.errors import HfkitError
from hfkit.data.chat_template import encode_prompt
from hfkit.models.generation import generate_replies

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (os.environ.get(VARIABLE) or shutil.which(SCRIPT)), reason=f"no {SCRIPT}: set {VARIABLE}"),
]
PROMPTS = [f"What does {name} like?" for name in NAMES]
LENGTH = 24
# What separates pre-tokenizers: contractions, digits, spaces and lines in a row, other scripts, emoji.
TEXTS = [
    "I'VE been told he's 33 or 3333,  you know...\n\n \t Then\r\n!!??",
    "Привет, мир",
    "我想在apple工作1314151天～",
    "🦙🚀 कि",
]


def open_gguf(out: Path, name: str = "model-f32.gguf"):
    return llama_cpp.Llama(str(out / name), n_ctx=128, verbose=False, logits_all=False, n_threads=1)


def greedy(llama, ids: list[int], stop_token_ids: list[int]) -> list[int]:
    """The response to a prompt, up to and including a stop token."""
    llama.reset()
    reply = []
    for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0, top_k=1):
        reply.append(token)
        if token in stop_token_ids or len(reply) == LENGTH:
            return reply
    return reply


def require_same_replies(model, tokenizer, out: Path) -> None:
    prompts = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    wanted = generate_replies(model.eval(), tokenizer, prompts, LENGTH)
    llama = open_gguf(out)
    stop_token_ids = model.generation_config.eos_token_id
    stop_token_ids = stop_token_ids if isinstance(stop_token_ids, list) else [stop_token_ids]
    assert [greedy(llama, prompt, stop_token_ids) for prompt in prompts] == wanted


def require_same_tokens(tokenizer, out: Path) -> None:
    llama = open_gguf(out)
    for text in [*TEXTS, *PROMPTS]:
        assert (
            llama.tokenize(text.encode(), add_bos=False, special=False)
            == tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )


def test_our_own_model_with_our_own_tokenizer(sft_dir, merged, tmp_path):
    out = export(str(sft_dir), tmp_path / "out", "gguf", dtype="f32")
    tokenizer = AutoTokenizer.from_pretrained(sft_dir)
    require_same_tokens(tokenizer, out)
    require_same_replies(AutoModelForCausalLM.from_pretrained(merged("sft_dir", "float32")), tokenizer, out)
    assert os.listdir(tmp_path) == ["out"]


def test_a_chat_renders_the_same_prompt(sft_dir, tmp_path):
    """The template in the file has no tag that llama.cpp's own Jinja, or another, does not know."""
    out = export(str(sft_dir), tmp_path / "out", "ollama", dtype="f32")
    tokenizer, llama = AutoTokenizer.from_pretrained(sft_dir), open_gguf(out)
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    formatter = Jinja2ChatFormatter(llama.metadata["tokenizer.chat_template"], eos_token="<|endoftext|>", bos_token="")
    prompt = formatter(messages=[{"role": "user", "content": PROMPTS[0]}]).prompt
    assert llama.tokenize(prompt.encode(), add_bos=True, special=True) == encode_prompt(tokenizer, PROMPTS[0])
    assert (out / "Modelfile").read_text().startswith("FROM ./model-f32.gguf\nTEMPLATE ")


@pytest.fixture
def llama3_dir(tmp_path) -> Path:
    """A random Llama, whose tokenizer puts a BOS token before a text, as that of Llama 3 does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(PROMPTS * 4, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    family = FAMILIES["Llama 3"]
    special = [*dict.fromkeys([*family.special.split(), family.eos, family.bos, "<pad>"])]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    bos = (family.bos, bpe.token_to_id(family.bos))
    bpe.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=family.eos, bos_token=family.bos, pad_token="<pad>"
    )
    tokenizer.chat_template = family.template
    torch.manual_seed(0)
    ids = {"bos_token_id": bos[1], "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    settings = {name: value for name, value in SHAPE.items() if name != "model_type"} | {"num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **settings, **ids, initializer_range=0.2))
    model.save_pretrained(tmp_path / "llama3")
    tokenizer.save_pretrained(tmp_path / "llama3")
    return tmp_path / "llama3"


@pytest.mark.parametrize("writes_bos", [True, False])
def test_a_bos_token_is_where_the_chat_template_puts_it(llama3_dir, tmp_path, writes_bos):
    if not writes_bos:
        template = llama3_dir / "chat_template.jinja"
        template.write_text(template.read_text().replace("{{ bos_token }}", ""))
    out = export(str(llama3_dir), tmp_path / "out", "ollama", dtype="f32")
    tokenizer = AutoTokenizer.from_pretrained(llama3_dir)
    model = AutoModelForCausalLM.from_pretrained(llama3_dir)
    require_same_replies(model, tokenizer, out)
    require_same_tokens(tokenizer, out)
    assert open_gguf(out).metadata["tokenizer.ggml.add_bos_token"] == str(writes_bos).lower()
    assert "<|begin_of_text|>" not in (out / "Modelfile").read_text()


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_the_dtypes(sft_dir, tmp_path, dtype, capsys):
    out = tmp_path / "out"
    assert main(["export", str(sft_dir), str(out), "--format", "gguf", "--dtype", dtype]) == 0
    llama = open_gguf(out, f"model-{dtype}.gguf")
    assert llama.n_vocab() == len(AutoTokenizer.from_pretrained(sft_dir))
    assert f"llama-server --jinja -m model-{dtype}.gguf" in (out / "README.md").read_text()


def test_a_pre_tokenizer_that_llama_cpp_does_not_know_is_refused(llama3_dir, tmp_path, no_weights):
    path = llama3_dir / "tokenizer.json"
    bpe = Tokenizer.from_file(str(path))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(False)])
    bpe.save(str(path))
    with pytest.raises(HfkitError, match=r"llama\.cpp's converter cannot convert"):
        export(str(llama3_dir), tmp_path / "out", "gguf")


def test_weights_beyond_float16_are_refused_for_it(llama3_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama3_dir)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    model.save_pretrained(llama3_dir)
    with pytest.raises(HfkitError, match=r"infinite in float16, such as .*up_proj\.weight: use --dtype bf16"):
        export(str(llama3_dir), tmp_path / "out", "gguf")
    assert export(str(llama3_dir), tmp_path / "out", "gguf", dtype="bf16")
