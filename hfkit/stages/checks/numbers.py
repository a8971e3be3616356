"""Validates numbers against their ranges, and when evaluations run."""

import math

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.stages.checks.rules import broken_rules, unused_rules

POSITIVE = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("block_size", "max_length", "max_prompt_length", "response_length", "vocab_size", "logging_steps", "save_steps"),
    *("num_mini_batches", "num_ppo_epochs", "local_rollout_forward_batch_size", "temperature", "max_kl"),
    *("max_grad_norm", "lora_r", "lora_alpha", "total_episodes", "cliprange", "cliprange_value", "model_max_length"),
    *("dataset_num_proc", "sample_length", "save_total_limit", "eval_steps", "sample_steps", "kl_target", "kl_horizon"),
    *("reward_clip", "ptx_max_length", "early_stopping_patience", "max_tokens_per_micro_batch"),
    *("num_iterations", "epsilon", "epsilon_high", "pad_to_multiple_of"),
)
OFF = {
    "max_grad_norm": "; 1e9 clips nothing",
    "save_total_limit": "; none keeps all checkpoints",
    "early_stopping_patience": "; none never stops early",
    "logging_steps": "; a number above the last step logs nothing before it",
}
"""What turns the effect of a key off, where other libraries use 0."""
HELD_OUT_KEYS = ("eval_datasets", "test_split_size")
NOT_NEGATIVE = (
    *("learning_rate", "value_learning_rate", "value_warmup_steps", "weight_decay", "warmup_steps", "min_frequency"),
    *("kl_coef", "entropy_coef", "ptx_coef", "vf_coef", "missing_eos_penalty", "score_margin"),
    *("eval_prompts", "beta", "center_rewards_coefficient", "neftune_noise_alpha", "eval_delay"),
)
SHARES = ("lora_dropout", "max_dropped", "min_reward_accuracy", "gamma", "lam", "label_smoothing_factor")
SEEDS = dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1))
RANGES = {**SEEDS, **dict.fromkeys(NOT_NEGATIVE, (0, math.inf)), **dict.fromkeys(SHARES, (0, 1))}
"""The lowest and the highest value."""
LARGEST = 1e38
"""The largest number allowed; float32 overflows above 3.4e38."""


def number_problems(config) -> list[Problem]:
    """Return problems of numbers outside their range, and of evaluations that cannot run."""
    settings = {**config.extra, **vars(config)}
    values = {name: settings.get(name) for name in POSITIVE}
    problems = [
        Problem(k, v, f"must be above 0{OFF.get(k, '')}") for k, v in values.items() if v is not None and v <= 0
    ]
    for name, (low, high) in RANGES.items():
        value = settings.get(name)
        if value is not None and not low <= value <= high:
            remedy = "must not be negative" if high is math.inf else f"must be from {low} to {high}"
            problems.append(Problem(name, value, remedy))
    numbers = {name: value for name, value in vars(config).items() if isinstance(value, float)}
    problems += [Problem(k, v, "must be below 1e38") for k, v in numbers.items() if abs(v) > LARGEST]
    is_cut, budget = getattr(config, "micro_batches_by_length", True), "max_tokens_per_micro_batch"
    unused = not is_cut and getattr(config, budget) is not None
    steps = getattr(config, "max_steps", -1)
    rules = [
        (unused, budget, "has no effect with micro_batches_by_length: false", "micro_batches_by_length"),
        (steps != -1 and steps < 1, "max_steps", "must be above 0, or -1 for num_train_epochs"),
    ]
    rules += steps_rules(config) + evaluation_rules(config) + best_rules(config)
    return problems + broken_rules(config, rules) + metric_problems(config)


def steps_rules(config) -> list[tuple]:
    """Return the rules that steps between logs, evaluations or checkpoints have no effect with another strategy."""
    strategies = {
        "logging": config.extra.get("logging_strategy") or "steps",
        "eval": getattr(config, "eval_strategy", "no"),
        "save": getattr(config, "save_strategy", "steps"),
    }
    needed: dict[str, tuple] = {
        f"{name}_steps": (
            strategy == "steps" or getattr(config, f"{name}_steps", 1) == 0,  # 0 is never allowed, and reported so
            f"with {name}_strategy: {strategy}; remove it, or set {name}_strategy: steps",
            f"{name}_strategy",
            *(("eval_strategy", "eval_steps") if name == "logging" else ()),
        )
        for name, strategy in strategies.items()
    }
    if strategies["eval"] == "steps" and not config.eval_steps:  # it evaluates every logging_steps
        del needed["logging_steps"]
    return unused_rules(config, needed)


def evaluation_rules(config) -> list[tuple]:
    """Return the rules of when to evaluate, as for `broken_rules`."""
    evaluates, needs_rows = getattr(config, "eval_strategy", "no"), not has_held_out(config)
    at_start, delayed = config.extra.get("eval_on_start"), config.extra.get("eval_delay")
    remedy = "needs held-out rows: set eval_datasets or test_split_size"
    return [
        (needs_rows and at_start, "eval_on_start", remedy, *HELD_OUT_KEYS),
        (delayed and evaluates == "no", "eval_delay", "has no effect without eval_strategy", "eval_strategy"),
        (needs_rows and evaluates != "no", "eval_strategy", remedy, *HELD_OUT_KEYS),
    ]


def best_rules(config) -> list[tuple]:
    """Return the rules of choosing the best checkpoint and of early stopping, which need evaluations."""
    evaluates = getattr(config, "eval_strategy", "no") != "no" and has_held_out(config)
    remedy = "needs evaluations: set eval_strategy, and eval_datasets or test_split_size"
    keys = ("load_best_model_at_end", "early_stopping_patience")
    is_broken = {key: bool(getattr(config, key, None)) and not evaluates for key in keys}
    strategies = [getattr(config, key, "no") for key in ("save_strategy", "eval_strategy")]
    differs = evaluates and bool(config.load_best_model_at_end) and strategies[0] != strategies[1]
    saved = "needs a checkpoint at each evaluation: save_strategy is {!r} and eval_strategy {!r}; set one for both"
    return [
        *((broken, key, remedy, "eval_strategy", *HELD_OUT_KEYS) for key, broken in is_broken.items()),
        (differs, keys[0], saved.format(*strategies), "save_strategy", "eval_strategy"),
    ]


def metric_problems(config) -> list[Problem]:
    """Return the problem of a `metric_for_best_model` that a stage does not compute."""
    spec, key = spec_of_config(config), "metric_for_best_model"
    metric, known = config.extra.get(key), spec.eval_metrics
    if metric is None or not known or metric.removeprefix("eval_") in known:
        return []
    return [Problem(key, metric, f"{spec.name} has no such metric: expected one of {', '.join(known)}")]


def has_held_out(config) -> bool:
    """Return whether a config holds rows out."""
    return bool(getattr(config, "eval_datasets", None)) or getattr(config, "test_split_size", None) is not None
