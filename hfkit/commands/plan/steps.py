"""Counts a stage's optimizer steps, tokens, and disk space."""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from hfkit.core.errors import HfkitError
from hfkit.data.forms import FORMS
from hfkit.data.loaded_source import LoadedSource
from hfkit.data.sources import read_entry
from hfkit.training.memory import formulas
from hfkit.training.memory.processes import ALONE, Launch
from hfkit.training.memory.rows import micro_batch_tokens
from hfkit.training.memory.shapes import Role


@dataclass(frozen=True)
class StepsPlan:
    """Optimizer steps and most tokens of a stage, or None and the reason why they are unknown; bytes on disk.

    Attributes:
        micro_batch: the most tokens of the largest micro-batch.
        formats: lines about the recognized formats of the sources.
    """

    steps: int | None
    tokens: int | None
    micro_batch: int
    unknown: str
    disk: int
    formats: list[str] = field(default_factory=list)


def plan_steps(stage, roles: list[Role], launch: Launch = ALONE) -> StepsPlan:
    """Count steps and tokens from the config and the files, including rows that will be dropped.

    Steps, tokens and disk space are those of all processes.
    """
    config = stage.config
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * launch.processes
    unknown, rows, sources = packing_of(stage), None, []
    if not unknown:
        try:
            sources = [read_local(entry, stage) for entry in config.datasets]
            rows = training_rows(config, sources) if sources else None
        except HfkitError as error:
            unknown = str(error)
    updates = count_updates(stage, rows, batch, launch)
    steps_each = config.num_ppo_epochs * config.num_mini_batches if stage.spec.loop == "ppo" else 1
    steps, tokens = updates and updates * steps_each, updates and updates * batch * stage.row_length * stage.replies
    largest = micro_batch_tokens(stage.spec, config, stage.replies)
    formats = [f"{source.label}: {source.format}" for source in sources if source.format]
    disk = disk_bytes(stage, roles, updates, launch)
    return StepsPlan(steps, tokens, largest, "" if steps else unknown, disk, formats)


def count_updates(stage, rows: int | None, batch: int, launch: Launch) -> int | None:
    """Return the updates of PPO, or the optimizer steps of another stage; None if they depend on unknown rows.

    Args:
        rows: of the training data; None if unknown.
        batch: rows of an update of all processes.
    """
    config = stage.config
    if config.max_steps > 0:
        return config.max_steps
    if stage.spec.loop == "ppo":
        episodes = config.total_episodes or (rows and int(config.num_train_epochs * rows))
        return episodes and ceil(episodes / batch)
    if rows is None:
        return None
    passes = passes_per_epoch(stage, rows, launch.processes)
    return ceil(config.num_train_epochs * max(ceil(passes / config.gradient_accumulation_steps), 1))


def passes_per_epoch(stage, rows: int, processes: int) -> int:
    """Return the forward and backward passes of a process in an epoch; GRPO and RLOO learn from whole batches.

    `trl.trainer.utils.RepeatSampler` leaves out the prompts that do not fill a batch of responses.
    """
    size, arguments = stage.config.per_device_train_batch_size, stage.arguments
    if not stage.spec.samples_replies:
        return ceil(ceil(rows / size) / processes)
    prompts = size * arguments.steps_per_generation * processes // arguments.num_generations
    return rows // prompts * arguments.steps_per_generation * arguments.num_iterations


def packing_of(stage) -> str:
    """Return why the number of a stage's packed rows is unknown; "" if rows are not packed."""
    if stage.spec.form == "text":
        return "documents are packed into rows after encoding"
    packed = getattr(stage.config, "packing", False)
    return "conversations are packed into rows after encoding" if packed else ""


def disk_bytes(stage, roles: list[Role], steps: int | None, launch: Launch) -> int:
    """Return the bytes of the final model or adapter and of the checkpoints that are kept, with optimizer states.

    PPO's checkpoints also have the value model, DeepSpeed's an fp32 copy of the trained weights. If the number of steps
    (for PPO: updates) is unknown, one checkpoint counts.
    """
    config = stage.config
    final = formulas.gradient_bytes(roles[0].trained)  # a gradient is as large as its weight
    if config.save_strategy == "no":
        return final
    saved = [weight for role in roles for weight in role.trained]
    each = formulas.gradient_bytes(saved) + formulas.optimizer_bytes(saved, stage.arguments)
    each += launch.processes * launch.copies(saved)
    made = 1
    if config.save_strategy == "epoch":
        made = ceil(config.num_train_epochs)
    elif steps:
        made = ceil(steps / (config.save_steps if config.save_steps >= 1 else ceil(config.save_steps * steps)))
    return final + each * (made if config.save_total_limit is None else min(config.save_total_limit, made))


def training_rows(config, sources: list[LoadedSource]) -> int:
    """Return the number of training rows, less those held out."""
    rows = sum(len(source.rows) for source in sources)
    size = 0 if config.eval_datasets else config.test_split_size or 0
    return rows - int(size if size >= 1 else ceil(size * rows))


def read_local(entry, stage) -> LoadedSource:
    """Return the rows of a file or folder on this machine.

    Raises:
        HfkitError: the source is of another kind, or cannot be read.
    """
    if entry.card or any(getattr(entry, name) is not None for name in ("weight", "epochs", "rows", "tokens")):
        raise HfkitError("the rows of cards and mixtures are unknown until they are read")
    if not Path(entry.path).exists():
        raise HfkitError(f"{entry.path} is not on this machine")
    needed = getattr(stage.config, "reward_columns", [])
    source = read_entry(entry, FORMS[stage.spec.form].columns, needed, stage.config.seed)
    if stage.spec.makes != "reward model" and "replies" in source.rows.column_names:
        raise HfkitError("rankings are split into pairs after encoding")
    return source
