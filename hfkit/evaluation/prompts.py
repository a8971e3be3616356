"""Loads prompts for several models: those that fit into the context of each."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hfkit.config.evaluation import ArenaConfig, SampleConfig, split_name
from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.forms import INSTRUCTIONS, PROMPTS, TEXT
from hfkit.data.messages import RenderError, tools_of
from hfkit.data.rendering import TEMPLATE_KWARGS, variables_of
from hfkit.data.source_rows import source_form
from hfkit.data.splits import SplitStats, load_rows
from hfkit.evaluation.held_out import prompt_and_reply
from hfkit.evaluation.replies import SUBJECT_KEYS, Subject

OPTIONS = ("tools", TEMPLATE_KWARGS)  # columns that the chat template reads
REFERENCE_COLUMNS = [column for column in INSTRUCTIONS if column not in TEXT]


@dataclass
class SharedPrompts:
    """Several models, and the prompts that fit into each.

    Attributes:
        rows: as `load_prompts` returns them.
        ids: token ids of the prompts by the model's name.
    """

    subjects: list[Subject]
    rows: list[dict]
    ids: dict[str, list[list[int]]]
    stats: SplitStats


def load_models_and_prompts(config: ArenaConfig | SampleConfig, columns: list[str]) -> SharedPrompts:
    """Load the prompts of a config for its models, whose weights are loaded later.

    Args:
        columns: further columns of the rows.

    Raises:
        HfkitError: a tokenizer cannot be read, there are no prompts, or none fits into every model.
    """
    options = {name: getattr(config, name) for name in SUBJECT_KEYS}
    subjects = [Subject(*split_name(given), **options) for given in config.models]
    rows, stats = load_prompts(config.prompts, config.max_prompts, config.seed, columns)
    return SharedPrompts(
        subjects, *shared_prompts(rows, subjects, config.max_prompt_length, config.response_length, stats), stats
    )


def load_prompts(
    entries: list[DatasetEntry], limit: int | None, seed: int, columns: list[str]
) -> tuple[list[dict], SplitStats]:
    """Load rows of `prompt`, `reference` (the response of the row, or None) and `columns`, and statistics of the rows.

    Raises:
        HfkitError: the rows cannot be read, or none has a prompt.
    """
    wanted = [column for column in prompt_columns(entries) if column not in columns]
    rows, stats = load_rows("prompts", entries, wanted, columns, seed)
    rows = stats.capped(rows)
    prompts = rows_with_prompts(list(rows), columns)
    if not prompts:
        raise HfkitError(f"{stats}\nNone of the rows has a prompt: map a column to `prompt` or `messages`.")
    stats.kept = len(prompts)
    stats.dropped = {"without a prompt": len(rows) - len(prompts)} if len(prompts) < len(rows) else {}
    return sample_rows(prompts, limit, seed), stats


def prompt_columns(entries: list[DatasetEntry]) -> list[str]:
    """Return the columns to read: only prompts if the rows of an entry have no single response, such as pairs.

    Raises:
        HfkitError: the rows cannot be read.
    """
    forms = {source_form(entry, REFERENCE_COLUMNS) for entry in entries}
    return PROMPTS if forms & {"prompts", "preference", "ranking"} else REFERENCE_COLUMNS


def rows_with_prompts(rows: list[dict], columns: list[str]) -> list[dict]:
    """Return the rows that have a prompt, as `load_prompts` does."""
    parsed = [(row, prompt_and_reply(row)) for row in rows]
    return [
        {"prompt": found[0], "reference": found[1], **{name: row[name] for name in (*columns, *OPTIONS) if name in row}}
        for row, found in parsed
        if found is not None
    ]


def sample_rows(rows: list[dict], limit: int | None, seed: int) -> list[dict]:
    """Return all rows, or a random choice of `limit` by the seed, in their order; None means no limit."""
    if limit is None or len(rows) <= limit:
        return rows
    return [rows[index] for index in sorted(np.random.default_rng(seed).choice(len(rows), limit, replace=False))]


def shared_prompts(
    rows: list[dict], subjects: list[Subject], max_prompt_length: int, response_length: int, stats: SplitStats
) -> tuple[list[dict], dict[str, list[list[int]]]]:
    """Return the rows whose prompt and response fit into every model, and the prompts' token ids by the model's name.

    `stats` counts the others as dropped.

    Raises:
        HfkitError: no row is left.
    """
    kept, ids, lost = [], {subject.name: [] for subject in subjects}, Counter()
    contexts = {subject.name: subject.context or max_prompt_length + response_length for subject in subjects}
    limits = {name: min(max_prompt_length, context - response_length) for name, context in contexts.items()}
    for row in rows:
        try:
            options = tools_of(row.get("tools")), variables_of(row)
            encoded = {subject.name: subject.encode(row["prompt"], *options) for subject in subjects}
        except RenderError as error:
            lost[str(error)] += 1
            continue
        long = [name for name, prompt in encoded.items() if len(prompt) > limits[name]]
        if long or not all(encoded.values()):
            lost[f"longer than {limits[long[0]]} tokens" if long else "empty"] += 1
            continue
        kept.append(row)
        for name, prompt in encoded.items():
            ids[name].append(prompt)
    stats.kept = len(kept)
    stats.dropped = {**stats.dropped, **lost}
    if not kept:
        raise HfkitError(f"{stats}\nNo prompt is left: raise max_prompt_length, or lower response_length.")
    return kept, ids
