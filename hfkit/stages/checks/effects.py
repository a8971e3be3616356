"""Validates that every key that is set has an effect: keys that depend on another key need it to be set."""

from hfkit.config.neutral_keys import BY_METRIC
from hfkit.core.errors import Problem
from hfkit.stages.checks.rules import broken_rules, unused_rules

SCHEDULE = "lr_scheduler_type"
CHOOSES_BEST = ("load_best_model_at_end", "early_stopping_patience", *((SCHEDULE, name) for name in BY_METRIC))
NO_WARMUP = ("constant", *BY_METRIC)
"""The learning rate schedules that do not warm up."""
NEEDED_KEYS: dict[str, tuple[str | tuple[str, str], ...]] = {
    "bnb_4bit_quant_type": ("load_in_4bit",),
    "use_bnb_nested_quant": ("load_in_4bit",),
    "sample_length": ("sample_prompts",),
    "kl_horizon": ("kl_target",),
    "ptx_max_length": ("ptx_datasets",),
    "merge_in_rollouts": ("use_peft",),
    "liger_kernel_config": ("use_liger_kernel",),
    "metric_for_best_model": CHOOSES_BEST,
    "greater_is_better": CHOOSES_BEST,
}
"""Keys with no effect alone -> keys of which one must be set, to the given value or to any."""


def effect_problems(config) -> list[Problem]:
    """Return problems of keys that differ from their defaults but have no effect, since a key they depend on is off."""
    settings = {**vars(config), **config.extra}
    joins_rows = getattr(config, "packing", None) in (True, "documents")
    remedy = "on packed rows: lower per_device_train_batch_size instead"
    schedule, recomputes = settings.get(SCHEDULE), "gradient_checkpointing"
    projects = str(settings.get("optim")).startswith(("galore", "apollo"))
    needed: dict[str, tuple] = {
        "max_tokens_per_micro_batch": (not joins_rows, remedy),
        "pad_to_multiple_of": (not joins_rows, "on packed rows, which have no padding: remove it", "packing"),
        "warmup_steps": (schedule not in NO_WARMUP, f"with {SCHEDULE}: {schedule}; constant_with_warmup has", SCHEDULE),
        "optim_target_modules": (projects, "without optim: galore_adamw, apollo_adamw or the like", "optim"),
        f"{recomputes}_kwargs": (settings.get(recomputes) is not False, f"with {recomputes}: false", recomputes),
    }
    for key, others in NEEDED_KEYS.items():
        pairs = [(one, None) if isinstance(one, str) else one for one in others]
        known = [
            (name, value) for name, value in pairs if hasattr(config, name) or config.extra_field(name) is not None
        ]
        is_read = any(settings.get(name) == value if value else settings.get(name) for name, value in known)
        one_of = " or ".join(name if value is None else f"{name}: {value}" for name, value in known)
        needed[key] = (is_read, f"without {one_of}", *dict(known))
    is_raised = schedule == "greedy" and lowest_rate(settings) > config.learning_rate
    remedy = f"its min_lr is {lowest_rate(settings)}, above learning_rate: set lr_scheduler_kwargs: {{min_lr: 0}}"
    rules = [(is_raised, SCHEDULE, remedy, "lr_scheduler_kwargs", "learning_rate"), *unused_rules(config, needed)]
    return broken_rules(config, rules)


def lowest_rate(settings: dict) -> float:
    """Return the learning rate that the schedule `greedy` never goes below; it raises a lower one to it."""
    return (settings.get("lr_scheduler_kwargs") or {}).get("min_lr", 1e-3)
