"""How long a stage runs, in optimizer steps and tokens, and what it leaves on the disk."""

import gzip
import json
import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from hfkit.commands.plan import memory
from hfkit.commands.plan.shapes import Role
from hfkit.core.errors import HfkitError
from hfkit.data.cards import load_card


@dataclass(frozen=True)
class StepsPlan:
    """Optimizer steps and most tokens of a stage, or None and why they are unknown; bytes on the disk."""

    steps: int | None
    tokens: int | None
    unknown: str
    disk: int


def plan_steps(stage, roles: list[Role]) -> StepsPlan:
    """Counts what the config and the files say; rows that will be dropped are counted too."""
    config = stage.config
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    unknown, rows = "", None
    try:
        rows = training_rows(config)
    except HfkitError as error:
        unknown = str(error)
    if stage.name == "ppo":
        episodes = config.total_episodes or (rows and int(config.num_train_epochs * rows))
        updates = config.max_steps if config.max_steps > 0 else episodes and ceil(episodes / batch)
        steps = updates and updates * config.num_ppo_epochs * config.num_mini_batches
        tokens = updates and updates * batch * (config.max_prompt_length + config.response_length)
    else:
        steps = config.max_steps if config.max_steps > 0 else None
        if stage.name == "pretrain":
            unknown, length = "documents are packed into rows once they are encoded", config.block_size
        elif stage.name == "sft" and config.packing:
            unknown, length = "conversations are packed into rows once they are encoded", config.max_length
        else:
            length = config.max_length * (replies_of(config) if stage.name == "reward" else 1)
            if steps is None and rows is not None:
                passes = ceil(rows / config.per_device_train_batch_size)
                steps = ceil(config.num_train_epochs * max(ceil(passes / config.gradient_accumulation_steps), 1))
        tokens = steps and steps * batch * length
    return StepsPlan(
        steps, tokens, "" if steps else unknown, disk_bytes(stage, roles, updates if stage.name == "ppo" else steps)
    )


def disk_bytes(stage, roles: list[Role], steps: int | None) -> int:
    """The final model, or its adapter, and as many checkpoints as are kept, each with the optimizer's states.

    Those of PPO have the value model too. Where the steps are unknown, one checkpoint is counted.
    """
    config = stage.config
    final = sum(weight.count * weight.itemsize for weight in roles[0].trained)
    if config.save_strategy == "no":
        return final
    saved = [weight for role in roles for weight in role.trained]
    each = sum(weight.count * weight.itemsize for weight in saved)
    each += memory.optimizer_bytes(saved, stage.arguments.optim)
    made = 1
    if config.save_strategy == "epoch":
        made = ceil(config.num_train_epochs)
    elif steps:
        made = ceil(steps / (config.save_steps if config.save_steps >= 1 else ceil(config.save_steps * steps)))
    return final + each * (made if config.save_total_limit is None else min(config.save_total_limit, made))


def training_rows(config) -> int:
    """Rows of the training data, less those held out.

    Raises:
        HfkitError: they cannot be counted without reading the data; its text says why.
    """
    rows = sum(count_rows(entry) for entry in config.datasets)
    size = 0 if config.eval_datasets else config.test_split_size or 0
    return rows - int(size if size >= 1 else ceil(size * rows))


def count_rows(entry) -> int:
    """Rows of a local `.jsonl` file (or `.jsonl.gz`), up to the end of a split such as `train[:1000]`.

    Raises:
        HfkitError: it is another kind of source.
    """
    if entry.card or any(getattr(entry, name) is not None for name in ("weight", "epochs", "rows", "tokens")):
        raise HfkitError("rows of cards and mixtures are known once they are read")
    path = Path(entry.path)
    if not path.is_file():
        raise HfkitError(f"{entry.path} is not on this machine")
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise HfkitError(f"rows are counted in .jsonl files, and {path.name} is none")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        rows = sum(1 for line in lines if line.strip())
    split = re.fullmatch(r"train(\[:(\d+)(%?)\])?", entry.split)
    if split is None:
        raise HfkitError(f"rows of the split {entry.split} are known once it is read")
    if split[2] is None:
        return rows
    return round(rows * int(split[2]) / 100) if split[3] else min(rows, int(split[2]))


def replies_of(config) -> int:
    """Replies that a row of the reward stage compares: those of a pair, or the most of a ranking.

    A card says how many, and of a local `.jsonl` file the first row; what lies elsewhere is taken for pairs.
    """
    return max((replies_of_source(entry) for entry in config.datasets), default=2)


def replies_of_source(entry) -> int:
    """Replies of one source's rankings, 2 where it has none or they are not known."""
    if entry.card:
        return load_card(entry.card).recipe.replies or 2
    path = Path(entry.path)
    if not path.is_file() or not path.name.endswith((".jsonl", ".jsonl.gz")):
        return 2
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            replies = json.loads(next(lines)).get((entry.columns or {}).get("replies", "replies"))
    except (OSError, EOFError, ValueError, AttributeError, StopIteration):  # `hfkit data check` tells what is wrong
        return 2
    return len(replies) if isinstance(replies, list) else 2
