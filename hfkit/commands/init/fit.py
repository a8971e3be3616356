"""Makes stages fit into memory by `hfkit plan`'s estimates: first smaller micro-batches, then a base in 4 bits."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from rich.filesize import decimal

from hfkit.commands.plan.advice import smaller_batch_flags, smaller_rollout_flags
from hfkit.core.errors import HfkitError
from hfkit.training.memory.checkpointing import MARGIN, with_checkpointing
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.planned_stage import PlannedStage

TRAIN_BATCH, EVAL_BATCH = "per_device_train_batch_size", "per_device_eval_batch_size"
BITS, ROLLOUT = "load_in_4bit", "local_rollout_forward_batch_size"
BASE_KEYS = {BITS, "load_in_8bit", "use_peft"}
"""Keys that set how the base is held; if one of them is given, none of them is chosen."""


@dataclass(frozen=True)
class Fit:
    """Settings of a stage, and their planned peak in bytes."""

    settings: dict[str, object]
    peak: int


def fit_stages(stages: list[PlannedStage], device: Device, given: Mapping[str, Collection[str]]) -> dict[str, Fit]:
    """Return the settings with which each stage fits; the base is in 4 bits in all of them or in none.

    Args:
        given: keys of each stage that must not change.

    Raises:
        HfkitError: a stage does not fit even with one row at a time over 4 bits.
    """
    room = replace(device, capacity=int(device.capacity / MARGIN))
    is_open = not any(BASE_KEYS & {*keys} for keys in given.values())
    found: dict[str, Fit] = {}
    for bits in ({BITS: False}, {BITS: True}) if is_open else ({},):
        found = {stage.spec.name: fit_stage(stage, room, bits, given[stage.spec.name]) for stage in stages}
        if all(fit.peak <= room.capacity for fit in found.values()):
            return found
    name, fit = max(found.items(), key=lambda item: item[1].peak)
    smallest = "with a base in 4 bits and one row at a time" if is_open else "with one row at a time"
    raise HfkitError(
        f"{name} does not fit into {decimal(device.capacity)} ({device.name}): it needs {decimal(fit.peak)} and a "
        f"margin of {MARGIN - 1:.0%}, {smallest}. Use a smaller model, plan for more memory with --gpu GB, or shorten "
        "the rows"
    )


def fit_stage(stage: PlannedStage, room: Device, bits: dict[str, object], given: Collection[str]) -> Fit:
    """Return the largest micro-batch that fits, or else the smallest; activations are kept if possible.

    Args:
        room: the device, less a margin.
        bits: settings of the quantization.
        given: keys that must not change.
    """
    batches, rollouts = [{}, *smaller_batch_flags(stage.config)], [{}]
    if stage.spec.samples_replies:
        rollouts += smaller_rollout_flags(stage.config)
    batches, rollouts = ([one for one in many if not one.keys() & {*given}] for many in (batches, rollouts))
    least = first_fit(stage, room, [({**bits, **batches[-1], **rollout}, True) for rollout in rollouts], given)
    if least.peak > room.capacity:
        return least
    kept = {**bits, **({ROLLOUT: least.settings[ROLLOUT]} if ROLLOUT in least.settings else {})}
    return first_fit(stage, room, [({**kept, **batch}, again) for again in (False, True) for batch in batches], given)


def first_fit(stage: PlannedStage, room: Device, attempts: list[tuple[dict, bool]], given: Collection[str]) -> Fit:
    """Return the first settings that fit, or else the last.

    Args:
        attempts: settings, each with whether activations are recomputed.
        given: keys that must not change.
    """
    for settings, checkpointing in attempts:
        if TRAIN_BATCH in settings and EVAL_BATCH not in given:
            settings = {**settings, EVAL_BATCH: settings[TRAIN_BATCH]}
        changed = replace(stage, config=replace(stage.config, **settings))
        peak = plan_memory(with_checkpointing(changed, checkpointing), room).peak
        if checkpointing and not room.is_gpu:  # a run on a GPU decides by itself
            settings = {**settings, "gradient_checkpointing": True}
        if peak <= room.capacity:
            break
    return Fit(settings, peak)
