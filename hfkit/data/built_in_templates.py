"""Provides chat templates of common formats by name, for models without one: `chat_template: chatml`."""

from collections.abc import Collection
from pathlib import Path

FOLDER = Path(__file__).with_name("templates")
BUILT_IN_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": (),
    "qwen3": ("<|im_start|>", "<|im_end|>"),
    "zephyr": (),
}
"""The templates, each with the tokens that a vocabulary must have: as plain text, an end marker would not end a turn.

Mistral and Zephyr write their other markers as text, and end a turn with the tokenizer's EOS.
"""


def read_built_in(name: str) -> str:
    """Return the text of a built-in template."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def tokens_fault(name: str, vocabulary: Collection[str]) -> str | None:
    """Return why a vocabulary does not fit a built-in template, or None."""
    missing = [token for token in BUILT_IN_TOKENS[name] if token not in vocabulary]
    if not missing:
        return None
    as_text = " or ".join(other for other, tokens in BUILT_IN_TOKENS.items() if not tokens)
    return f"{name} needs {' '.join(missing)}, which the vocabulary lacks; hfkit adds no tokens: set {as_text}"
