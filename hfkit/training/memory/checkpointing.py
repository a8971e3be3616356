"""Decides whether a run recomputes its activations: only if its GPU has too little memory to keep them."""

from dataclasses import dataclass, replace

from rich.filesize import decimal

from hfkit.config.registry import STAGES
from hfkit.core.console import say, warn
from hfkit.core.device import device
from hfkit.core.errors import reason
from hfkit.core.launch import fsdp_recomputes
from hfkit.training.memory.device import Device, free_gpu
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.planned_stage import PlannedStage, plan_stage
from hfkit.training.memory.processes import ALONE, Launch, this_launch
from hfkit.training.memory.rows import micro_batch_tokens, replies_per_row

MARGIN = 1.25
"""Required memory as a multiple of the plan: plans are off by up to 15%, and memory fragments."""


@dataclass(frozen=True)
class Checkpointing:
    """Whether activations are recomputed.

    Attributes:
        needed: bytes that the run needs if they are kept; None if not needed for the decision or unknown.
        available: bytes of the device.
    """

    enabled: bool
    needed: int | None = None
    available: int | None = None

    def __str__(self) -> str:
        word = "on" if self.enabled else "off"
        if self.needed is None or self.available is None:
            return f"gradient_checkpointing: {word}"
        margin = f"{decimal(self.needed)} and a margin of {MARGIN - 1:.0%}"
        return f"gradient_checkpointing: {word}, since the run needs {margin} without it, of {decimal(self.available)}"


def decide_checkpointing(stage: PlannedStage, on: Device, launch: Launch = ALONE) -> tuple[PlannedStage, Checkpointing]:
    """Return a stage with `gradient_checkpointing` set, if its config leaves it open, and the decision.

    A GPU keeps activations if they fit with a margin; a CPU, where recomputing costs most, always keeps them.
    """
    asked = stage.config.gradient_checkpointing
    if asked is not None or not on.is_gpu:
        decided = Checkpointing(bool(asked))
    else:
        needed = plan_memory(with_checkpointing(stage, False), on, launch).peak
        decided = Checkpointing(needed * MARGIN > on.capacity, needed, on.capacity)
    return with_checkpointing(stage, decided.enabled), decided


def with_checkpointing(stage: PlannedStage, enabled: bool) -> PlannedStage:
    """Return a stage with `gradient_checkpointing` set."""
    return replace(stage, config=replace(stage.config, gradient_checkpointing=enabled))


def plan_run(run, replies: int | None = None):
    """Set `gradient_checkpointing` in a run's config and return it; record it, and the tokens of a micro-batch.

    Call it before models are loaded, since it counts the free memory. The config in the record is not changed, so that
    a run may resume on another GPU.

    Args:
        run: from `open_run`, with its own copy of the config.
        replies: the most sequences of a row, if the stage knows.
    """
    config, spec = run.config, STAGES[run.stage]
    decided = Checkpointing(bool(config.gradient_checkpointing))
    if fsdp_recomputes():
        decided = Checkpointing(False)
    elif config.gradient_checkpointing is None and device().type == "cuda":
        decided = decide_on_gpu(run.stage, config, replies)
        say(f"{run.stage}: {decided}")
    run.note(
        gradient_checkpointing={"enabled": decided.enabled, "needed": decided.needed, "available": decided.available},
        micro_batch_tokens=micro_batch_tokens(spec, config, replies or replies_per_row(spec, config)),
    )
    config.gradient_checkpointing = decided.enabled  # in place, since the explanation of a full GPU reads it too
    return config


def decide_on_gpu(name: str, config, replies: int | None) -> Checkpointing:
    """Return the decision for this process's GPU; on, if the memory of the model cannot be planned."""
    try:
        on = free_gpu()
        return decide_checkpointing(plan_stage(name, config, {}, on, replies), on, this_launch(config.extra))[1]
    except Exception as error:  # an architecture may lack any of the widths that a plan needs
        warn(f"gradient_checkpointing: on, since the memory of this model cannot be planned: {reason(error)}")
        return Checkpointing(True)
