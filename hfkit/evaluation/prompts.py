"""The prompts that several models reply to: those that each of them can read, in full."""

from collections import Counter

import numpy as np

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.cards import recipe_of
from hfkit.data.forms import INSTRUCTIONS, PROMPTS, TEXT
from hfkit.data.messages import RenderError
from hfkit.data.splits import SplitStats, load_rows
from hfkit.evaluation.held_out import asked_of
from hfkit.evaluation.replies import Subject

WANTED = [column for column in INSTRUCTIONS if column not in TEXT]


def load_prompts(
    entries: list[DatasetEntry], limit: int, seed: int, columns: list[str]
) -> tuple[list[dict], SplitStats]:
    """Rows of `prompt`, `reference` (a reply that they have, or None) and `columns`, with their account.

    Raises:
        HfkitError: they cannot be read, or there is no prompt among them.
    """
    wanted = [column for column in prompt_columns(entries) if column not in columns]
    rows, account = load_rows("prompts", entries, wanted, columns, seed)
    rows = account.capped(rows)
    prompts = prompts_of(list(rows), columns)
    if not prompts:
        raise HfkitError(f"{account}\nThere is no prompt among them: map a column to `prompt` or `messages`.")
    account.kept = len(prompts)
    account.dropped = {"without a prompt": len(rows) - len(prompts)} if len(prompts) < len(rows) else {}
    return chosen(prompts, limit, seed), account


def prompt_columns(entries: list[DatasetEntry]) -> list[str]:
    """The columns to read: of all entries the prompt alone, where a card has no reply that is the row's own."""
    forms = {recipe.form for entry in entries if (recipe := recipe_of(entry)) is not None}
    return PROMPTS if forms & {"prompts", "preference", "ranking"} else WANTED


def prompts_of(rows: list[dict], columns: list[str]) -> list[dict]:
    """The rows that ask something, as `load_prompts` has them."""
    asked = [(row, asked_of(row)) for row in rows]
    return [
        {"prompt": found[0], "reference": found[1], **{name: row[name] for name in columns}}
        for row, found in asked
        if found is not None
    ]


def chosen(rows: list[dict], limit: int, seed: int) -> list[dict]:
    """All rows, or `limit` of them, chosen by seed, in their order."""
    if len(rows) <= limit:
        return rows
    return [rows[place] for place in sorted(np.random.default_rng(seed).choice(len(rows), limit, replace=False))]


def readable_prompts(
    rows: list[dict], subjects: list[Subject], max_prompt_length: int, response_length: int, account: SplitStats
) -> tuple[list[dict], dict[str, list[list[int]]]]:
    """The rows that every model can read and has room to reply to, and their token ids by the model's name.

    Raises:
        HfkitError: there are none.
    """
    kept, ids, lost = [], {subject.name: [] for subject in subjects}, Counter()
    contexts = {subject.name: subject.context or max_prompt_length + response_length for subject in subjects}
    limits = {name: min(max_prompt_length, context - response_length) for name, context in contexts.items()}
    for row in rows:
        try:
            encoded = {subject.name: subject.encode(row["prompt"]) for subject in subjects}
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
    account.kept = len(kept)
    account.dropped = {**account.dropped, **lost}
    if not kept:
        raise HfkitError(f"{account}\nNo prompt is left: raise max_prompt_length, or lower response_length.")
    return kept, ids
