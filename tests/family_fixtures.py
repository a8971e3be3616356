"""Tokenizers with the chat templates of `template_families.py` and one small vocabulary."""

import copy

import pytest
from template_families import FAMILIES
from template_parts import Family
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hfkit.stages.tokenizer import CHAT_TEMPLATE

TEXT = "Where is Oslo? Oslo is in Norway. And Rome? Rome is in Italy. Be brief. What is two and two? It is four. " * 9


def base_tokenizer() -> Tokenizer:
    """Return a small byte-level BPE without special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=350, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def tokenizer_of(family: Family, base: Tokenizer) -> PreTrainedTokenizerFast:
    """Return the base tokenizer with the tokens and the template of a family, as from `read_tokenizer`."""
    tokenizer = copy.deepcopy(base)
    special = [*dict.fromkeys([*family.special.split(), family.eos, *([family.bos] if family.bos else []), "<pad>"])]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain.split()])
    options = {"bos_token": family.bos} if family.bos else {}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=family.eos, pad_token="<pad>", **options)
    made.chat_template = family.template or CHAT_TEMPLATE.read_text(encoding="utf-8")
    made.chat_control_tokens = []
    return made


@pytest.fixture(scope="session")
def base_tokens() -> Tokenizer:
    return base_tokenizer()


@pytest.fixture
def tokenizer_for(base_tokens):
    """tokenizer_for(family) -> its tokenizer."""
    return lambda name: tokenizer_of(FAMILIES[name], base_tokens)
