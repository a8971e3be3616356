"""Decides whether a run recomputes its activations: only if its GPU has too little memory to keep them."""

from dataclasses import dataclass, replace

from rich.filesize import decimal

from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.planned_stage import PlannedStage
from hfkit.training.memory.processes import ALONE, Launch

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
