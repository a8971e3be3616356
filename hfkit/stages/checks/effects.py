"""Validates that every key that is set has an effect: keys that depend on another key need it to be set."""

from hfkit.core.errors import Problem
from hfkit.stages.checks.rules import broken_rules, unused_rules

PLATEAU = ("lr_scheduler_type", "reduce_lr_on_plateau")
CHOOSES_BEST = ("load_best_model_at_end", "early_stopping_patience", PLATEAU)
NEEDED_KEYS: dict[str, tuple[str | tuple[str, str], ...]] = {
    "bnb_4bit_quant_type": ("load_in_4bit",),
    "use_bnb_nested_quant": ("load_in_4bit",),
    "sample_length": ("sample_prompts",),
    "kl_horizon": ("kl_target",),
    "ptx_max_length": ("ptx_datasets",),
    "merge_in_rollouts": ("use_peft",),
    "metric_for_best_model": CHOOSES_BEST,
    "greater_is_better": CHOOSES_BEST,
}
"""Keys with no effect alone -> keys of which one must be set, to the given value or to any."""


def effect_problems(config) -> list[Problem]:
    """Return problems of keys that differ from their defaults but have no effect, since a key they depend on is off."""
    settings = {**vars(config), **config.extra}
    joins_rows = getattr(config, "packing", None) in (True, "documents")
    remedy = "on packed rows: lower per_device_train_batch_size instead"
    needed: dict[str, tuple] = {"max_tokens_per_micro_batch": (not joins_rows, remedy)}
    for key, others in NEEDED_KEYS.items():
        pairs = [(one, None) if isinstance(one, str) else one for one in others]
        known = [
            (name, value) for name, value in pairs if hasattr(config, name) or config.extra_field(name) is not None
        ]
        is_read = any(settings.get(name) == value if value else settings.get(name) for name, value in known)
        one_of = " or ".join(name if value is None else f"{name}: {value}" for name, value in known)
        needed[key] = (is_read, f"without {one_of}", *dict(known))
    return broken_rules(config, unused_rules(config, needed))
