"""Prints the tables of a plan."""

from dataclasses import dataclass

from rich.filesize import decimal
from rich.table import Column, Table

from hfkit.commands.plan.advice import Remedy
from hfkit.commands.plan.steps import StepsPlan
from hfkit.core.tables import make_console
from hfkit.training.memory.checkpointing import Checkpointing
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import MemoryPlan
from hfkit.training.memory.processes import Launch

ROOMY = 0.9
"""The share of the memory that a peak may take without a remark: fragments take the rest."""


@dataclass(frozen=True)
class MicroBatchChoice:
    """What a run decides with the micro-batches that it chooses, and its peak in bytes."""

    checkpointing: Checkpointing
    peak: int


@dataclass(frozen=True)
class PlanRow:
    """The printed facts of a stage: the dtype of its base, and its plan.

    Attributes:
        memory: with micro-batches of `per_device_train_batch_size` rows.
        choice: None if a run keeps these micro-batches.
        rows: of a process in an optimizer step.
        sent: bytes that it sends in one.
        fitting: a launch in which the stage fits, and its peak in bytes.
    """

    name: str
    dtype: str
    checkpointing: Checkpointing
    choice: MicroBatchChoice | None
    memory: MemoryPlan
    steps: StepsPlan
    rows: int
    sent: int
    remedies: list[Remedy]
    fitting: tuple[Launch, int] | None

    @property
    def peak(self) -> int:
        """The peak of a run in bytes."""
        return (self.choice or self.memory).peak


def print_plans(plans: list[PlanRow], device: Device, launch: Launch, in_pipeline: bool) -> None:
    """Print memory, steps and disk space, the choices for the device, then flags for stages that do not fit."""
    console = make_console(width=140, highlight=False)
    console.print(memory_table(plans, device, launch))
    console.print(steps_table(plans, launch))
    for plan in plans:
        for line in plan.steps.formats:
            console.print(f"{plan.name}: {line}", soft_wrap=True)
    for plan in plans:
        console.print(f"{plan.name}: dtype: {plan.dtype}; {plan.checkpointing}", soft_wrap=True)
        if plan.choice is not None:
            choice = f"the run chooses micro-batches of {plan.steps.micro_batch:,} tokens: {decimal(plan.peak)}"
            console.print(f"{plan.name}: {choice}; {plan.choice.checkpointing}", soft_wrap=True)
    for plan in plans if launch.processes > 1 else ():
        peaks = ", ".join(f"{phase} {decimal(peak)}" for phase, peak in plan.memory.peaks.items())
        batch = f"{plan.rows * launch.processes} rows in a step, {plan.rows} in each process"
        console.print(f"{plan.name}: {batch}; peaks of its phases: {peaks}", soft_wrap=True)
    for plan in plans:
        name, peak, capacity = plan.name, decimal(plan.peak), decimal(device.capacity)
        if plan.peak > device.capacity:
            console.print(f"{name} does not fit: its peak of {peak} is more than {capacity}.")
        elif plan.peak > ROOMY * device.capacity:
            share = f"{plan.peak / device.capacity:.0%} of {capacity}"
            console.print(f"{name} just fits: its peak of {peak} is {share}, and memory fragments.")
        else:
            continue
        prefix = f"{name}." if in_pipeline else ""
        for remedy in plan.remedies:
            verdict = "it fits" if remedy.peak <= device.capacity else "not enough"
            flags = " ".join(f"--{prefix}{key} {str(value).lower()}" for key, value in remedy.flags.items())
            console.print(f"  {flags}: {decimal(remedy.peak)}, {verdict}", soft_wrap=True)
        if plan.fitting is not None:
            other, peak = plan.fitting
            words = f"--processes {other.processes} --engine {other.engine}"
            console.print(f"  {words}: {decimal(peak)} in each process, it fits", soft_wrap=True)
        elif not plan.remedies and plan.peak > device.capacity:
            console.print("  No flag is enough: use a smaller model, shorter rows, or more memory.")


def memory_table(plans: list[PlanRow], device: Device, launch: Launch) -> Table:
    """Return a table with a row per model; a stage's first row has its activations and peak."""
    caption = (
        f"peak: weights, optimizer states, {decimal(device.taken)} for libraries, and the largest phase; "
        "shared weights count once"
    )
    sizes = ("parameters", "trainable", "weights", "gradients", "optimizer", "activations", "logits", "peak")
    columns = [Column(name, justify="right", no_wrap=True) for name in sizes]
    columns = [Column(no_wrap=True), *columns, Column("phase", no_wrap=True)]
    whose = "" if launch.processes == 1 else f" of each of {launch.processes} processes ({launch.engine})"
    title = f"Memory{whose}, of {decimal(device.capacity)} ({device.name})"
    table = Table(*columns, title=title, caption=caption)
    for plan in plans:
        name, memory = plan.name, plan.memory
        for index, role in enumerate(memory.roles):
            stage_cells = [decimal(size) for size in (memory.activations, memory.logits, memory.peak)]
            table.add_row(
                role.name if index else name if len(memory.roles) == 1 else f"{name} {role.name}",
                *(f"{count / 1e6:,.2f} M" for count in (role.parameters, role.trainable)),
                *(decimal(size) for size in (role.weights, role.gradients, role.optimizer)),
                *([*stage_cells, memory.phase] if index == 0 else []),
            )
        table.add_section()
    return table


def steps_table(plans: list[PlanRow], launch: Launch) -> Table:
    """Return a table of each stage's steps, tokens, tokens of its largest micro-batch, and disk space.

    For several processes it also has the bytes that each sends in an optimizer step.
    """
    titles = ["optimizer steps", "tokens, at most", "of a micro-batch", "disk"]
    titles += [] if launch.processes == 1 else ["sent by a process in a step"]
    numbers = [Column(title, justify="right") for title in titles]
    table = Table("", *numbers, title="Steps and disk")
    for plan in plans:
        steps = plan.steps
        known = [f"{count:,}" if count else "unknown" for count in (steps.steps, steps.tokens)]
        if steps.unknown:
            known[0] += f": {steps.unknown}"
        sent = [] if launch.processes == 1 else [decimal(plan.sent)]
        table.add_row(plan.name, *known, f"{steps.micro_batch:,}", decimal(steps.disk), *sent)
    return table
