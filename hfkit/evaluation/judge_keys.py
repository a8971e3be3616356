"""Validates which keys a judge needs and reads, without the libraries of models."""

from hfkit.config.evaluation import ArenaConfig
from hfkit.core.errors import Problem
from hfkit.stages.checks.rules import broken_rules

KEYS_OF_JUDGES = {"reward": "reward_model", "function": "reward_function"}
"""The key that a judge of a kind needs."""


def judge_key_problems(config: ArenaConfig) -> list[Problem]:
    """Return problems of a judge with missing keys, or with keys that it does not use."""
    needed = KEYS_OF_JUDGES.get(config.judge)
    given = [key for key in ("reward_model", "reward_function", "reward_columns") if getattr(config, key)]
    read = {needed, "reward_columns"} if config.judge == "function" else {needed}
    rules = [(key not in read, key, f"has no effect with judge: {config.judge}", "judge") for key in given]
    if needed is not None:
        lacks = getattr(config, needed) is None
        rules.append((lacks, needed, f"missing: judge: {config.judge} needs it", "judge"))
    return broken_rules(config, rules)
