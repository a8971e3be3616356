"""Regular expressions with exponential time are refused, ordinary ones are allowed."""

import re

import pytest

from hfkit.core.regexes import regex_fault

ORDINARY = [
    r".*(q_proj|v_proj)",
    r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|up|down|gate)_proj",
    r"(?!.*vision).*proj$",
    r"(?:a|b)+",
    r"(?:\w+\.)+(?:q|v)_proj",
    r"(?:[^.]+\.)*q_proj",
    r"model(\.\w+)*",
    r".*(layers\.\d+\.)*(q_proj)",
    r"^((?!lm_head|visual).)*$",
    r".*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?|\bmodel\.layers\.\d{1,}\.(?:(?:k|v)_proj)",
    # tokenizers: GPT-2, Llama 3, GPT-4o, Llama 4, EXAONE, digits from the right
    r"'s|'t|'re| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]+[\p{Ll}]*(?i:'s)?",
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+(?:'[sS]|'[tT])?",
    r"(?:\r?\n)+(?!\r?\n)",
    r"(?=(\d{3})+(?!\d))",
]
EXPONENTIAL = [
    *(r"(a+)+$", r"(a|a)*$", r"(a|A)+$", r"(aa?)+$", r"(a{1,2})+$", r"((a|b)+)+$", r"(?:a|ab)*$", r"(\w+\w)*$"),
    *(r"(a+){16}$", r"((a+){3}){3}$", r"(a?){20}a{20}", "a?" * 30 + "a" * 30, r"a*a*a*a*a*a*a*a*b", r"(.+\.)+$"),
    *(
        r"((\w+\.)*)*$",
        r"(?=(a+)+$)",
        r"([([ab]+\()+$",
        r"(x|)+$",
        r"(?i:s|\u017f)*$",
        r"([[:alpha:]]+x)+",
        r"(a+b?)+$",
    ),
]


@pytest.mark.parametrize("pattern", ORDINARY)
def test_an_ordinary_expression_is_allowed(pattern):
    assert regex_fault(pattern) is None


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_an_exponential_expression_is_refused(pattern):
    assert re.search("repeats a group|in a row", regex_fault(pattern) or "")
