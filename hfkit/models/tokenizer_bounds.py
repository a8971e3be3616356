"""Checks the files of a tokenizer before loading: their sizes, and steps that could take unbounded time or memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfkit.core.files import load_json_file
from hfkit.core.regexes import regex_fault
from hfkit.records.bounds import shown, walk

LARGEST_FILE = 256 << 20
MOST_ADDED_TOKENS = 1 << 16
"""Maximum number of tokens added to a vocabulary: Gemma 3 has 6,415."""
MOST_GROWTH = 64
"""Maximum characters that a normalizer may make of one, and tokens that a post-processor may add to a text."""
ADDED = {"tokenizer.json": "added_tokens", "tokenizer_config.json": "added_tokens_decoder", "added_tokens.json": None}
VOCABULARY_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def tokenizer_fault(folder: Path) -> str | None:
    """Return which file of a folder's tokenizer is out of bounds, and why; else None.

    Without bounds any text could take minutes or all memory: through a regular expression with exponential time, a
    normalizer that doubles the text in each of many steps, or a million added tokens.
    """
    for name in VOCABULARY_FILES:
        if (folder / name).is_file() and (size := (folder / name).stat().st_size) > LARGEST_FILE:
            return f"{name} has {size >> 20} MB, more than {LARGEST_FILE >> 20}"
    for name, key in ADDED.items():
        if not (folder / name).is_file():
            continue
        try:
            content = load_json_file(folder / name)
        except (OSError, ValueError) as error:
            return f"{name} is not valid JSON: {error}"
        if not isinstance(content, dict):
            return f"{name} is not a JSON mapping"
        added = content.get(key) if key else content
        if isinstance(added, (list, dict)) and len(added) > MOST_ADDED_TOKENS:
            return f"{name} adds {len(added)} tokens, more than {MOST_ADDED_TOKENS}"
        if name == "tokenizer.json" and (fault := pipeline_fault(content)):
            return f"{name}: {fault}"
    return None


def pipeline_fault(content: dict) -> str | None:
    """Return which step of a tokenizer.json could take unbounded time or memory, or None."""
    growth = 1.0
    for section in ("normalizer", "pre_tokenizer", "decoder"):
        for step in steps_of(content.get(section)):
            pattern = step.get("pattern")
            kind, text = next(iter(pattern.items()), (None, None)) if isinstance(pattern, dict) else (None, None)
            if kind == "Regex" and isinstance(text, str) and (fault := regex_fault(text)):
                return f"the regular expression {shown(text)} in its {section} {fault}"
            if section == "normalizer":
                growth *= growth_of(step, len(text) if kind == "String" and isinstance(text, str) else 1)
    if growth > MOST_GROWTH:
        return f"its normalizer makes up to {growth:.0f} characters of one; the maximum is {MOST_GROWTH}"
    for template in steps_of(content.get("post_processor")):
        for side in ("single", "pair"):
            if isinstance(template.get(side), list) and len(template[side]) > MOST_GROWTH:
                return f"its post_processor adds {len(template[side])} tokens to a text, more than {MOST_GROWTH}"
    padding = content.get("padding")
    for name, value in walk(padding) if isinstance(padding, dict) else ():
        if type(value) is int and value > LARGEST_FILE:
            return f"its padding has {name}: {shown(value)}"
    return None


def growth_of(step: dict, replaced: int) -> float:
    """Return how many characters a normalizer step makes of one; `replaced` is the length of its pattern."""
    if step.get("type") == "Prepend":
        return max(1, len(str(step.get("prepend", ""))))
    return max(1.0, len(str(step.get("content", ""))) / max(1, replaced)) if step.get("type") == "Replace" else 1.0


def steps_of(section: Any) -> Iterator[dict]:
    """Yield a step of a tokenizer's pipeline and its nested steps."""
    waiting = [section]
    for step in waiting:
        if isinstance(step, dict):
            yield step
            for name in ("normalizers", "pretokenizers", "decoders", "processors"):
                waiting += step[name] if isinstance(step.get(name), list) else []
