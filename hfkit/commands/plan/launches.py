"""Reads the launch of a plan, and finds a launch in which a stage fits."""

from dataclasses import replace
from itertools import chain

from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.stages.checks.planned_engine import sharding_problems
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.processes import ALONE, LAUNCH_ENGINES, Launch

MOST_PROCESSES = 1024


def read_launch(processes: int, nodes: int, engine: str | None) -> Launch:
    """Return the launch that `--processes`, `--nodes` and `--engine` describe; DDP without an engine.

    Raises:
        ConfigError: they contradict each other.
    """
    problems = []
    if engine and processes == 1:
        problems.append(Problem("--processes", MISSING, f"{engine} is for several processes: set --processes N"))
    if processes % nodes:
        remedy = f"{processes} processes cannot be divided among these: set a divisor of --processes"
        problems.append(Problem("--nodes", nodes, remedy))
    if problems:
        raise ConfigError(problems)
    return Launch(processes, engine or ALONE.engine, nodes)


def require_engine(stages: list, launch: Launch) -> None:
    """Raise ConfigError if the engine of a launch cannot train one of these stages (each a `PlannedStage`).

    Raises:
        ConfigError: with the problems that the stages themselves would report.
    """
    problems = [
        problem.under(f"{stage.spec.name}." if len(stages) > 1 else "")
        for stage in stages
        for problem in sharding_problems(stage.config, launch.engine)
        if launch.processes > 1
    ]
    if problems:
        raise ConfigError(problems)


def device_of_process(device: Device, launch: Launch) -> Device:
    """Return the device of one process: its own GPU, or its share of a machine's memory."""
    count = launch.processes // launch.nodes
    if device.is_gpu or count == 1:
        return device
    return replace(device, name=f"{device.name}, by {count} processes", capacity=device.capacity // count)


def fitting_launch(stage, device: Device, planned: Launch = ALONE) -> tuple[Launch, int] | None:
    """Return a launch in which a stage fits, and its peak in bytes; None if there is none.

    It has the processes that are planned, with another engine, or else the fewest. Among engines that need the same
    number, the one that shards least is chosen, since it sends least.

    Args:
        stage: a `PlannedStage`.
        device: of a process.
    """

    def peak(launch: Launch) -> int:
        return plan_memory(stage, device, launch).peak

    able = [engine for engine in LAUNCH_ENGINES if not sharding_problems(stage.config, engine)]
    able = [engine for engine in able if peak(Launch(MOST_PROCESSES, engine)) <= device.capacity]
    same = [replace(planned, engine=engine) for engine in able if planned.processes > 1]
    counts = (2**power for power in range(1, MOST_PROCESSES.bit_length()))
    launches = chain(same, (Launch(count, engine) for count in counts for engine in able))
    found = ((launch, peak(launch)) for launch in launches)
    return next((one for one in found if one[1] <= device.capacity), None)
