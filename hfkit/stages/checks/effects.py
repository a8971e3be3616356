"""Validates that every key that is set has an effect: keys that depend on another key need it to be set."""

from hfkit.config.trainer_fields import METRIC_SCHEDULES
from hfkit.core.errors import Problem
from hfkit.stages.checks.rules import broken_rules, unused_rules
from hfkit.training.memory.rows import joins_rows

SCHEDULE = "lr_scheduler_type"
READS_METRIC = ("load_best_model_at_end", "early_stopping_patience", *((SCHEDULE, name) for name in METRIC_SCHEDULES))
NEEDED_KEYS: dict[str, tuple[str | tuple[str, str], ...]] = {
    "bnb_4bit_quant_type": ("load_in_4bit",),
    "use_bnb_nested_quant": ("load_in_4bit",),
    "sample_length": ("sample_prompts",),
    "kl_horizon": ("kl_target",),
    "liger_kernel_config": ("use_liger_kernel",),
    "ptx_max_length": ("ptx_datasets",),
    "merge_in_rollouts": ("use_peft",),
    "metric_for_best_model": READS_METRIC,
    "greater_is_better": READS_METRIC,
}
"""Keys with no effect alone -> keys of which one must be set, to the given value or to any."""
WITHOUT_WARMUP = ("constant", *METRIC_SCHEDULES)
WITHOUT_OPTIONS = ("constant", "constant_with_warmup")
"""Schedules for which Transformers does not read `lr_scheduler_kwargs`."""
GREEDY_MIN_LR = 1e-3
"""The default of `min_lr` of Transformers' `GreedyLR`."""


def effect_problems(config) -> list[Problem]:
    """Return problems of keys that differ from their defaults but have no effect, since a key they depend on is off."""
    settings = {**vars(config), **config.extra}
    has_padding = not joins_rows(config)
    remedy = "on packed rows: lower per_device_train_batch_size instead"
    recomputes = "gradient_checkpointing"
    needed: dict[str, tuple] = {
        "max_tokens_per_micro_batch": (has_padding, remedy),
        "pad_to_multiple_of": (has_padding, "on packed rows, which have no padding: remove it", "packing"),
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
    kind = settings.get(SCHEDULE)
    warmup = f"with {SCHEDULE}: {kind}" + ": set constant_with_warmup" * (kind == "constant")
    needed["warmup_steps"] = (kind not in WITHOUT_WARMUP, warmup, SCHEDULE)
    needed["lr_scheduler_kwargs"] = (kind not in WITHOUT_OPTIONS, f"with {SCHEDULE}: {kind}", SCHEDULE)
    return broken_rules(config, [*unused_rules(config, needed), *greedy_rules(settings)])


def greedy_rules(settings: dict) -> list[tuple]:
    """Return the rule that the schedule `greedy` must not raise the learning rate when a metric gets worse."""
    options = settings.get("lr_scheduler_kwargs") or {}
    lowest = options.get("min_lr", GREEDY_MIN_LR) if isinstance(options, dict) else None
    is_number = isinstance(lowest, int | float)  # the schedule itself refuses other values
    above = settings.get(SCHEDULE) == "greedy" and is_number and lowest > settings["learning_rate"]
    remedy = (
        f"greedy never goes below min_lr, by default {GREEDY_MIN_LR}, which is above learning_rate: set {{min_lr: 0}}"
    )
    return [(above, "lr_scheduler_kwargs", remedy, SCHEDULE, "learning_rate")]
