"""Counts the tokens that a stage computes at once: of a row, and of the largest micro-batch."""

from pathlib import Path

from hfkit.config.registry import StageSpec
from hfkit.core.file_types import ROW_PER_LINE, suffix_of
from hfkit.core.limits import load_json
from hfkit.data.cards import load_card
from hfkit.data.files import iter_lines
from hfkit.training.arguments import max_tokens
from hfkit.training.micro_batching import joins_batches


def row_length(spec: StageSpec, config) -> int:
    """Return the most tokens of a sequence; a row of comparisons has several (see `replies_per_row`)."""
    if spec.length_key is not None:
        return getattr(config, spec.length_key)
    return config.max_prompt_length + config.response_length


def micro_batch_tokens(spec: StageSpec, config, replies: int = 1) -> int:
    """Return the most tokens of a forward pass in training, padding included.

    Args:
        replies: the most sequences of a row.
    """
    row = replies * row_length(spec, config)
    limit = None if joins_rows(config) else max_tokens(config, row)
    if limit is None:
        return config.per_device_train_batch_size * row
    return max(row, min(limit, shared_tokens(spec, config, replies)))


def shared_tokens(spec: StageSpec, config, replies: int = 1) -> int:
    """Return the tokens of the rows that can share a micro-batch, padding included."""
    accumulated = config.gradient_accumulation_steps
    if spec.samples_replies and spec.loop != "ppo":  # GRPO and RLOO
        sampled = config.extra.get("steps_per_generation") or accumulated
        is_joined = joins_batches(getattr(config, "loss_type", ""), accumulated, sampled)
        if not (is_joined and config.micro_batches_by_length):
            return config.per_device_train_batch_size * replies * row_length(spec, config)
    return step_tokens(spec, config, replies)


def step_tokens(spec: StageSpec, config, replies: int = 1) -> int:
    """Return the most tokens of one device in an optimizer step, padding included."""
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
    rows //= getattr(config, "num_mini_batches", 1)
    return rows * replies * row_length(spec, config)


def joins_rows(config) -> bool:
    """Return whether conversations or documents are joined into rows without attending to each other."""
    return getattr(config, "packing", False) in (True, "documents")


def sums_each_pass(config) -> bool:
    """Return whether FSDP2 sums gradients after each micro-batch of a step (`MicroBatching.training_step`).

    Otherwise each process accumulates whole gradients until the last micro-batch.
    """
    return config.micro_batches_by_length and not config.use_peft and not joins_rows(config)


def replies_per_row(spec: StageSpec, config) -> int:
    """Return how many responses a row of a stage has: 2 in a pair, the largest number in rankings; otherwise 1.

    The number comes from a data card, or from the first row of a local `.jsonl` file; rows of other sources count as
    pairs. Only reward models read a ranking as one row.
    """
    if spec.form != "comparisons":
        return 1
    if spec.makes != "reward model":
        return 2
    return max(map(replies_of_source, config.datasets), default=2)


def replies_of_source(entry) -> int:
    """Return the number of responses in a source's rankings; 2 for pairs, or if the number is unknown."""
    if entry.card:
        return load_card(entry.card).recipe.replies or 2
    path = Path(entry.path)
    if not path.is_file() or suffix_of(path) not in ROW_PER_LINE:
        return 2
    try:
        replies = load_json(next(iter_lines(path)).decode()).get((entry.columns or {}).get("replies", "replies"))
    except (OSError, EOFError, ValueError, AttributeError, StopIteration):  # `hfkit data check` reports what is wrong
        return 2
    return len(replies) if isinstance(replies, list) else 2
