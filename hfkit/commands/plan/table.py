"""Tables of a plan, for the terminal."""

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from hfkit.commands.plan.advice import Remedy
from hfkit.commands.plan.device import Device
from hfkit.commands.plan.peak import MemoryPlan
from hfkit.commands.plan.steps import StepsPlan


def print_plans(
    plans: list[tuple[str, MemoryPlan, StepsPlan, list[Remedy]]], device: Device, in_pipeline: bool
) -> None:
    """Print parameters and memory of each stage, then steps and disk, then flags for what does not fit."""
    console = Console(width=None if Console().is_terminal else 140, highlight=False)
    console.print(memory_table(plans, device))
    console.print(steps_table(plans))
    for name, memory, _, remedies in plans:
        if memory.peak <= device.capacity:
            continue
        peak, capacity = decimal(memory.peak), decimal(device.capacity)
        console.print(f"{name} does not fit: its peak of {peak} is more than {capacity}.")
        prefix = f"{name}." if in_pipeline else ""
        for remedy in remedies:
            verdict = "it fits" if remedy.peak <= device.capacity else "not enough"
            flags = " ".join(f"--{prefix}{key} {str(value).lower()}" for key, value in remedy.flags.items())
            console.print(f"  {flags}: {decimal(remedy.peak)}, {verdict}", soft_wrap=True)
        if not remedies:
            console.print("  No flag is enough: take a smaller model, shorter rows, or more memory.")


def memory_table(plans: list, device: Device) -> Table:
    """Return a table with a row per model; a stage's activations and peak stand in its first row."""
    caption = (
        f"peak: weights, optimizer states, {decimal(device.taken)} for libraries, and what the largest phase adds; "
        "shared weights count once"
    )
    sizes = ("parameters", "trainable", "weights", "gradients", "optimizer", "activations", "logits", "peak")
    columns = [Column(name, justify="right", no_wrap=True) for name in sizes]
    columns = [Column(no_wrap=True), *columns, Column("phase", no_wrap=True)]
    table = Table(*columns, title=f"Memory, of {decimal(device.capacity)} ({device.name})", caption=caption)
    for name, memory, _, _ in plans:
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


def steps_table(plans: list) -> Table:
    """Return a table of each stage's steps, tokens and disk."""
    numbers = [Column(name, justify="right") for name in ("optimizer steps", "tokens, at most", "disk")]
    table = Table("", *numbers, title="Steps and disk")
    for name, _, steps, _ in plans:
        known = [f"{count:,}" if count else "unknown" for count in (steps.steps, steps.tokens)]
        if steps.unknown:
            known[0] += f": {steps.unknown}"
        table.add_row(name, *known, decimal(steps.disk))
    return table
