"""Validates the keys that only a tokenizer's config has."""

from hfkit.config.stages import TokenizerConfig
from hfkit.core.errors import Problem

SMALLEST_VOCABULARY = 261


def tokenizer_problems(config: TokenizerConfig) -> list[Problem]:
    """Return problems of a vocabulary that is too small, and of rows limited by a number of tokens."""
    problems = [
        Problem(f"datasets[{index}].tokens", entry.tokens, "no tokenizer exists yet to count tokens: set rows instead")
        for index, entry in enumerate(config.datasets)
        if entry.tokens is not None
    ]
    if 0 < config.vocab_size < SMALLEST_VOCABULARY:
        remedy = f"must be at least {SMALLEST_VOCABULARY}: 256 bytes and 5 special tokens"
        problems.append(Problem("vocab_size", config.vocab_size, remedy))
    return problems
