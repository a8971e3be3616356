"""Validates keys of evaluations and labels that no model decides, without the libraries of models."""

from dataclasses import fields

from hfkit.config.evaluation import ArenaConfig, BenchConfig, ReplyFields
from hfkit.config.fields import DatasetEntry
from hfkit.config.labeling import LabelConfig
from hfkit.core.errors import Problem
from hfkit.stages.checks.data import single_pass_problems, source_problems
from hfkit.stages.checks.numbers import RANGES
from hfkit.stages.checks.rules import broken_rules

POSITIVE_KEYS = (
    *("max_rows", "max_prompts", "max_prompt_length", "response_length", "per_device_eval_batch_size"),
    *("resamples", "diversity_prompts", "diversity_samples", "num_samples", "limit", "overlap"),
)
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


def count_problems(config: ReplyFields | BenchConfig | LabelConfig) -> list[Problem]:
    """Return problems of counts that are not above 0, and of the seed."""
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name in POSITIVE_KEYS}
    problems = [
        Problem(key, value, "must be above 0") for key, value in values.items() if value is not None and value <= 0
    ]
    low, high = RANGES["seed"]
    if not low <= config.seed <= high:
        problems.append(Problem("seed", config.seed, f"must be from {low} to {high}"))
    return problems


def entry_problems(key: str, entries: list[DatasetEntry]) -> list[Problem]:
    """Return problems of datasets that do not exist, or that set options other than the number of rows."""
    return source_problems(key, entries) + single_pass_problems(key, entries)
