"""What would make a stage fit: its config with other flags, planned again, the least harmful first."""

from dataclasses import dataclass, replace

from hfkit.commands.plan.device import Device
from hfkit.commands.plan.peak import plan_memory
from hfkit.config.stages import PPOConfig, PretrainConfig

# A flag that saves less than this share of the peak is not worth a line.
WORTH = 0.02


@dataclass(frozen=True)
class Remedy:
    """Flags in place of the config's, and the peak that they give."""

    flags: dict[str, object]
    peak: int


def remedies(stage, device: Device) -> list[Remedy]:
    """Each flag that helps by itself; where none is enough, also those that are enough together, or all that help."""
    now = plan_memory(stage, device).peak
    alone: dict[tuple, Remedy] = {}
    for flags in candidate_flags(stage.config, device):
        remedy, keys = remedy_with(stage, flags, device), tuple(flags)
        tried = alone.get(keys)  # of several values the first that fits, else the last
        if remedy.peak < (1 - WORTH) * now and (tried is None or tried.peak > device.capacity):
            alone[keys] = remedy
    found = list(alone.values())
    if any(remedy.peak <= device.capacity for remedy in found):
        return found
    together = remedy_together(stage, device)
    return [*found, together] if len(together.flags) > 1 else found


def remedy_together(stage, device: Device) -> Remedy:
    """Flags added, the least harmful first, until it fits; those that it does not take are dropped again."""
    chosen: dict[tuple, dict] = {}
    best = remedy_with(stage, {}, device)
    for flags in candidate_flags(stage.config, device):
        if best.peak <= device.capacity:
            break
        tried = remedy_with(stage, merge_flags({**chosen, tuple(flags): flags}), device)
        if tried.peak <= best.peak:
            best, chosen = tried, {**chosen, tuple(flags): flags}
    for keys in reversed(list(chosen)):
        fewer = {key: flags for key, flags in chosen.items() if key != keys}
        tried = remedy_with(stage, merge_flags(fewer), device)
        if tried.peak <= max(device.capacity, best.peak):
            chosen = fewer
    return remedy_with(stage, merge_flags(chosen), device)


def merge_flags(chosen: dict[tuple, dict]) -> dict:
    """The flags of all choices, the later ones winning."""
    return {key: value for flags in chosen.values() for key, value in flags.items()}


def remedy_with(stage, flags: dict, device: Device) -> Remedy:
    """The peak of a stage with other flags; those that it has already are left out."""
    changed = type(stage)(stage.name, replace(stage.config, **flags), stage.start, stage.reward)
    told = {key: value for key, value in flags.items() if getattr(stage.config, key) != value}
    return Remedy(told, plan_memory(changed, device).peak)


def candidate_flags(config, device: Device) -> list[dict]:
    """Flags to try, the least harmful first: the same result, slower; the same within rounding; another method."""
    is_new = isinstance(config, PretrainConfig) and bool(config.model_config)
    found = [{"gradient_checkpointing": True}, *smaller_batch_flags(config)]
    if isinstance(config, PPOConfig):
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
        rows = min(rows, config.local_rollout_forward_batch_size)
        found += [{"merge_in_rollouts": False}] if config.merge_in_rollouts and config.use_peft else []
        found += [{"local_rollout_forward_batch_size": rows // 2**n} for n in range(1, rows.bit_length())]
    found.append({"bf16": True})
    if "8bit" not in (config.optim or ""):
        found.append({"optim": "paged_adamw_8bit" if device.is_gpu else "adamw_8bit"})
    if is_new:
        return found
    if not config.use_peft:
        found.append({"use_peft": True})
    if config.dtype not in ("bfloat16", "float16"):
        found.append({"use_peft": True, "dtype": "bfloat16"})  # whole weights that are trained want 32 bits
    lora = {"use_peft": True, "dtype": "bfloat16" if config.dtype == "auto" else config.dtype}
    if not config.load_in_4bit:
        # quantized weights want their dtype named
        found.append({**lora, "load_in_8bit": True})
        found.append({**lora, "load_in_8bit": False, "load_in_4bit": True})
    return found


def smaller_batch_flags(config) -> list[dict]:
    """The batch halved, and halved again, with the same rows in an optimizer step."""
    found, rows, steps = [], config.per_device_train_batch_size, config.gradient_accumulation_steps
    while rows > 1 and rows % 2 == 0:
        rows, steps = rows // 2, steps * 2
        found.append({"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps})
    return found
