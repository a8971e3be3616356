"""Checks what hfkit can do with an adapter of any origin: open it, merge it, share its base, continue its training.

An adapter is refused, before any weights are loaded, if a copy of it would compute something else.
"""

from dataclasses import fields

from peft import PEFT_TYPE_TO_TUNER_MAPPING, LoraConfig, NoMatchingPeftModuleError
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hfkit.core.errors import HfkitError
from hfkit.models.adapter_shape import SHAPE, get_on_meta, on_meta
from hfkit.models.direct_weights import is_target
from hfkit.records.source import Source

COPIED = (*SHAPE, "r", "lora_alpha", "use_rslora", "modules_to_save")
WITHOUT_EFFECT = ("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision")
WITHOUT_EFFECT += ("inference_mode", "lora_dropout", "bias", "init_lora_weights", "megatron_core", "runtime_config")
WITHOUT_EFFECT += ("eva_config", "corda_config", "loftq_config", "lora_ga_config", "qalora_group_size")
"""Settings that do not change what a trained adapter computes, or that are checked separately below."""
KNOWN = {field.name for field in fields(LoraConfig)}
NEVER_NULL = ("r", "lora_alpha", "lora_dropout", "bias", "rank_pattern", "alpha_pattern")
"""Settings of which PEFT cannot open `null`."""
HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica")
"""Initializations that do not change the base: the weights of the adapter replace them."""
REPEATABLE_STARTS = ("pissa", "olora")
"""Initializations that subtract the same matrix from the base each time that PEFT opens the adapter."""
CONVERTIBLE_STARTS = ("pissa", "olora", "corda", "lora_ga")
"""Prefixes of the initializations that PEFT can convert to plain LoRA when it saves a trained adapter."""


def base_change(adapter: dict) -> str | None:
    """Return which setting of an adapter's config changes the weights of its base, or None."""
    start = adapter.get("init_lora_weights", True)
    if isinstance(start, str) and start not in HARMLESS_STARTS:
        return f"init_lora_weights: {start}"
    if adapter.get("bias") not in (None, "none"):
        return f"bias: {adapter['bias']}"
    if adapter.get("layer_replication"):
        return "layer_replication"
    return None


def opening_fault(adapter: dict, to_merge: bool = False) -> str | None:
    """Return why an adapter cannot be loaded on a shared base, or merged into a separate one; else None."""
    kind = adapter.get("peft_type", "LORA")
    if kind != "LORA":  # reported elsewhere, or opened by PEFT itself
        return f"a {kind} adapter cannot be merged" if to_merge and not has_merge(kind) else None
    if unknown := [name for name, value in adapter.items() if value and name not in KNOWN]:
        return (
            f"its adapter_config.json sets {', '.join(unknown)}, which this version of PEFT would ignore: update PEFT"
        )
    if adapter.get("arrow_config"):
        return "it routes between other adapters (arrow_config), which only PEFT can load"
    if nulls := [name for name in NEVER_NULL if adapter.get(name, "default") is None]:
        return f"its adapter_config.json sets {', '.join(nulls)} to null, which PEFT cannot open: remove it there"
    change, start = base_change(adapter), str(adapter.get("init_lora_weights"))
    is_merged = change is not None and (change.startswith("bias") or start in REPEATABLE_STARTS)
    if change is None or (to_merge and is_merged):
        return None
    how, remedy = "in a way that hfkit cannot repeat", "merge it with PEFT and use the result"
    if is_merged:
        how, remedy = "which other models share", "merge it with `hfkit merge` and use the result"
    elif start.startswith(CONVERTIBLE_STARTS):
        remedy = "convert it with PEFT: `save_pretrained(path_initial_model_for_weight_conversion=...)`"
    return f"it changes its base ({change}), {how}: {remedy}"


def has_merge(kind: str) -> bool:
    """Return whether PEFT can merge adapters of a type into their base: not prompts, which do not change weights."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
    return tuner is not None and hasattr(tuner, "merge_and_unload")


def training_fault(adapter: dict) -> str | None:
    """Return why an adapter cannot be copied into an equivalent trainable one, or None."""
    if adapter.get("peft_type", "LORA") != "LORA":
        remedy = "merge it with PEFT and use the result" if has_merge(adapter["peft_type"]) else "it cannot be merged"
        return f"it is a {adapter['peft_type']} adapter, but hfkit continues only LoRA: {remedy}"
    if fault := opening_fault(adapter):
        return fault
    defaults = LoraConfig()
    for name, value in adapter.items():
        if value and name not in COPIED + WITHOUT_EFFECT and value != getattr(defaults, name, None):
            return f"its adapter_config.json sets {name}, which hfkit cannot train: merge it and use the result"
    return None


def require_supported(source: Source, *, to_merge: bool = False, to_train: bool = False) -> None:
    """Raise HfkitError if an adapter cannot be opened (merged, trained) without changing it; read no weights."""
    if source.adapter is None:
        return
    fault = training_fault(source.adapter) if to_train else opening_fault(source.adapter, to_merge)
    if fault:
        raise HfkitError(f"cannot use the adapter {source.path}: {fault}")


def unmatched(model: PreTrainedModel, targets: list[str] | str) -> list[str]:
    """Return the `target_modules` that match nothing in a model without weights.

    PEFT maps older names of experts' modules to parameters, so in a mixture an entry that names no module is tried
    separately.

    Raises:
        re.error: `targets` is a string but not a regular expression.
    """
    names = [name for name, _ in model.named_modules() if name]
    patterns = {targets: targets} if isinstance(targets, str) else {one: [one] for one in targets}
    left = [one for one, pattern in patterns.items() if not any(is_target(name, pattern) for name in names)]
    is_mixture = any(parameter.ndim == 3 for parameter in model.parameters())
    return [one for one in left if not (is_mixture and is_known(model.config, patterns[one]))]


def is_known(config: PreTrainedConfig, targets: list[str] | str) -> bool:
    """Return whether PEFT matches `target_modules` to any module, even one that it cannot adapt."""
    try:
        get_on_meta(on_meta(config, AutoModelForCausalLM), LoraConfig(task_type="CAUSAL_LM", target_modules=targets))
    except NoMatchingPeftModuleError:
        return False
    except ValueError:
        return True
    return True


def has_variant(adapter: dict) -> bool:
    """Return whether an adapter with these settings is not just W + B A, which merged copies require."""
    return bool(adapter.get("use_dora") or adapter.get("modules_to_save"))
