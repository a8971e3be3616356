"""Finds flags that would make a stage fit, by planning its config with other values, the least harmful first."""

from dataclasses import dataclass, replace

from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.processes import ALONE, Launch

WORTH = 0.02  # a flag that saves less than this share of the peak is not shown


@dataclass(frozen=True)
class Remedy:
    """Flags that replace values of the config, and the peak in bytes that results."""

    flags: dict[str, object]
    peak: int


def remedies(stage, device: Device, launch: Launch = ALONE) -> list[Remedy]:
    """Return each flag that helps alone; if none is enough, also a set that is enough together, or all that help.

    Args:
        stage: a `PlannedStage`.
    """
    now = plan_memory(stage, device, launch).peak
    single: dict[tuple, Remedy] = {}
    for flags in candidate_flags(stage, device):
        remedy, keys = remedy_with(stage, flags, device, launch), tuple(flags)
        earlier = single.get(keys)  # keep the first value that fits, else the last
        if remedy.peak < (1 - WORTH) * now and (earlier is None or earlier.peak > device.capacity):
            single[keys] = remedy
    if any(remedy.peak <= device.capacity for remedy in single.values()):
        return list(single.values())
    together = remedy_together(stage, device, launch)
    return [*single.values(), together] if len(together.flags) > 1 else list(single.values())


def remedy_together(stage, device: Device, launch: Launch) -> Remedy:
    """Add flags, the least harmful first, until the stage fits; then drop those that are not needed."""
    chosen: dict[tuple, dict] = {}
    best = remedy_with(stage, {}, device, launch)
    for flags in candidate_flags(stage, device):
        if best.peak <= device.capacity:
            break
        more = {**chosen, tuple(flags): flags}
        remedy = remedy_with(stage, merge_flags(more), device, launch)
        if remedy.peak <= best.peak:
            best, chosen = remedy, more
    for keys in reversed(list(chosen)):
        fewer = {key: flags for key, flags in chosen.items() if key != keys}
        if remedy_with(stage, merge_flags(fewer), device, launch).peak <= max(device.capacity, best.peak):
            chosen = fewer
    return remedy_with(stage, merge_flags(chosen), device, launch)


def merge_flags(chosen: dict[tuple, dict]) -> dict:
    """Return the flags of all choices; later ones win."""
    return {key: value for flags in chosen.values() for key, value in flags.items()}


def remedy_with(stage, flags: dict, device: Device, launch: Launch) -> Remedy:
    """Plan a stage with other flags, without those that its config has already."""
    changed = replace(stage, config=replace(stage.config, **flags))
    new = {key: value for key, value in flags.items() if getattr(stage.config, key) != value}
    return Remedy(new, plan_memory(changed, device, launch).peak)


def candidate_flags(stage, device: Device) -> list[dict]:
    """Return flags to try: first with the same result, then the same up to rounding, then other methods."""
    config = stage.config
    flags = [{"gradient_checkpointing": True}, *smaller_batch_flags(config)]
    if stage.spec.samples_replies:
        if config.rollout_engine != "vllm":
            flags += [{"merge_in_rollouts": False}] if config.merge_in_rollouts and config.use_peft else []
            flags += smaller_rollout_flags(config)
    flags.append({"bf16": True})
    if "8bit" not in (config.optim or ""):
        flags.append({"optim": "paged_adamw_8bit" if device.is_gpu else "adamw_8bit"})
    if getattr(config, "model_config", None):  # a new model has no frozen base for LoRA
        return flags
    if not config.use_peft:
        flags.append({"use_peft": True})
    if config.dtype not in ("bfloat16", "float16"):
        flags.append({"use_peft": True, "dtype": "bfloat16"})  # fully trained weights need 32 bits
    if not config.load_in_4bit:  # quantized weights need an explicit dtype; float32 of full fine-tuning is not for LoRA
        is_open = config.dtype == "auto" or (device.is_gpu and not config.use_peft)
        lora = {"use_peft": True, "dtype": "bfloat16" if is_open else config.dtype}
        flags.append({**lora, "load_in_8bit": True})
        flags.append({**lora, "load_in_8bit": False, "load_in_4bit": True})
    return flags


def smaller_batch_flags(config) -> list[dict]:
    """Return flags that halve the batch repeatedly, with the same number of rows in an optimizer step."""
    flags, rows, steps = [], config.per_device_train_batch_size, config.gradient_accumulation_steps
    while rows > 1 and rows % 2 == 0:
        rows, steps = rows // 2, steps * 2
        flags.append({"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps})
    return flags


def smaller_rollout_flags(config) -> list[dict]:
    """Return flags that halve the number of responses sampled at once repeatedly."""
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
    rows = min(rows, config.local_rollout_forward_batch_size)
    return [{"local_rollout_forward_batch_size": rows // 2**n} for n in range(1, rows.bit_length())]
