"""The tokenizer stage: it is lossless on any text, and Transformers loads its folder."""

import random
import unicodedata

import pytest
from transformers import AutoTokenizer

RANDOM = random.Random(0)
TEXTS = {
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 🇺🇳 ✍🏽",
    "right to left": "שלום עולם، مرحبا بالعالم \u202eabc\u202c",
    "scripts": "漢字かな交じり文 한국어 ไทย हिन्दी ελληνικά",
    "combining": "e\u0301 \u0041\u030a Z\u0351\u036b\u0343 ﬁ Å",
    "control": "".join(map(chr, range(32))) + "\x7f\u0085\u200b\ufeff",
    "spaces": "  two\t\ttabs \r\n\r\n\u00a0\u3000 end  ",
    "punctuation": "don 't . , ! ? do n't , 've",
    "unassigned": "\U0010ffff\ue000\ufffe",
    "bytes": bytes(RANDOM.randrange(256) for _ in range(400)).decode("utf-8", "replace"),
    "latin-1 bytes": bytes(range(256)).decode("latin-1"),
    "any": "".join(
        char
        for char in (chr(RANDOM.randrange(0x110000)) for _ in range(400))
        if unicodedata.category(char) != "Cs"  # lone surrogates are not text
    ),
    "special tokens": "<|user|> said <|endoftext|><|pad|>",
    "empty": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_unicode_comes_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_literal_text_of_a_special_token_is_that_token(tokenizer):
    """So a text can end a turn; decoding with `skip_special_tokens` then loses it."""
    assert tokenizer("<|endoftext|>").input_ids == [tokenizer.eos_token_id]
    assert tokenizer.decode(tokenizer("a<|endoftext|>b").input_ids, skip_special_tokens=True) == "ab"


def test_the_folder_is_an_ordinary_tokenizer(tokenizer_dir, tokenizer):
    plain = AutoTokenizer.from_pretrained(tokenizer_dir)
    assert (plain.eos_token, plain.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert plain.eos_token_id != plain.pad_token_id
    assert 256 + 5 < len(plain) <= 400  # every byte, the special tokens, and merges
    assert plain.chat_template == tokenizer.chat_template
    assert {path.name for path in tokenizer_dir.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
        "hfkit.json",
    }


def test_the_template_marks_the_assistants_part(tokenizer):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    both = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    trained = [
        token for token, is_trained in zip(both["input_ids"], both["assistant_masks"], strict=True) if is_trained
    ]
    assert tokenizer.decode(trained) == "Hi.<|endoftext|>"


def test_the_same_text_gives_the_same_tokenizer(run_stage, tokenizer_dir, tmp_path):
    again = run_stage("tokenizer", tmp_path / "again")
    assert (again / "tokenizer.json").read_bytes() == (tokenizer_dir / "tokenizer.json").read_bytes()


def test_a_custom_chat_template(run_stage, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[0].content }}")
    folder = run_stage("tokenizer", tmp_path / "out", chat_template=str(template))
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{{ messages[0].content }}"
