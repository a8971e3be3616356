"""Turns judgements into rows that the stages read: rankings for `hfkit reward` and DPO, instructions for SFT."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from hfkit.commands.label.labels_file import JUDGEMENT
from hfkit.commands.label.rows import Row
from hfkit.core.files import write_json_lines
from hfkit.evaluation.instruction_rows import instruction_rows

RANKINGS_FILE, INSTRUCTIONS_FILE = "rankings.jsonl", "instructions.jsonl"


def judgements_by_row(events: Sequence[dict], labelers: Collection[str] = ()) -> dict[str, list[dict]]:
    """Return the judgements that count by row: those of some labelers, or of all if none are named."""
    by_row = defaultdict(list)
    for event in events:
        if event["kind"] == JUDGEMENT and (not labelers or event["labeler"] in labelers):
            by_row[event["row"]].append(event)
    return by_row


def write_rows(folder: Path, rows: list[Row], judgements: dict[str, list[dict]]) -> dict[str, int]:
    """Write rankings and instructions, each file only if it has rows, and return their numbers."""
    judged = [(row, judgements[row.key]) for row in rows if row.key in judgements]
    rankings = [ranking for row, own in judged if (ranking := ranking_of(row, own))]
    written = {RANKINGS_FILE: rankings, INSTRUCTIONS_FILE: instructions_of(judged)}
    for name, lines in written.items():
        if lines:
            write_json_lines(folder / name, lines)
        else:
            (folder / name).unlink(missing_ok=True)
    return {name.removesuffix(".jsonl"): len(lines) for name, lines in written.items()}


def ranking_of(row: Row, judgements: list[dict]) -> dict | None:
    """Return the ranking of a row by the mean rank of each response; None if no response is better than another.

    Responses that nobody ranked are left out. Written answers are better than all responses.
    """
    count = len(row.replies)
    ranks = np.full((len(judgements), count), np.nan)
    for own, judgement in zip(ranks, judgements, strict=True):
        own[:] = judged_ranks(judgement, count)
    answers = answers_of(judgements)
    texts = row.shown_replies()
    if answers and np.isnan(ranks).all():
        ranks = np.ones((1, count))  # nobody compared the responses
    ranked = [index for index in range(count) if not np.isnan(ranks[:, index]).all()]
    values = {index: 0.0 if texts[index] in answers else float(np.nanmean(ranks[:, index])) for index in ranked}
    new = [answer for answer in answers if answer not in [texts[index] for index in ranked]]
    replies = [*(row.replies[index] for index in ranked), *(as_form_of(row, answer) for answer in new)]
    values = [*values.values(), *([0.0] * len(new))]
    if len(set(values)) < 2:
        return None
    return {"prompt": row.prompt, "replies": replies, "ranks": dense_ranks(values), **row.options}


def judged_ranks(judgement: dict, count: int) -> list[float]:
    """Return the ranks of a judgement, NaN for a response without one; responses that are all bad are tied."""
    ranks = judgement.get("ranks")
    if ranks is None or len(ranks) != count or all(rank is None for rank in ranks):
        return [1.0 if judgement.get("all_bad") else np.nan] * count
    known = [rank for rank in ranks if rank is not None]
    dense = dict(zip(known, dense_ranks(known), strict=True))
    return [np.nan if rank is None else float(dense[rank]) for rank in ranks]


def dense_ranks(values: Sequence[float]) -> list[int]:
    """Return the ranks of values, 1 for the lowest one; equal values have the same rank."""
    order = sorted(set(values))
    return [order.index(value) + 1 for value in values]


def answers_of(judgements: list[dict]) -> list[str]:
    """Return the answers that people wrote, each once."""
    return list(dict.fromkeys(one["answer"] for one in judgements if one.get("answer")))


def as_form_of(row: Row, text: str) -> str | list[dict]:
    """Return a response in the form of a row's other responses: text or messages."""
    are_texts = all(isinstance(reply, str) for reply in row.replies)
    return text if are_texts else [{"role": "assistant", "content": text}]


def instructions_of(judged: list[tuple[Row, list[dict]]]) -> list[dict]:
    """Return the answers that people wrote, and single responses that they approved of, as rows for SFT."""
    found = []
    for row, judgements in judged:
        answers = answers_of(judgements)
        if not answers and len(row.replies) == 1 and not any(one.get("all_bad") for one in judgements):
            answers = row.shown_replies()
        found += [(row.prompt, answer, row.options) for answer in answers]
    return instruction_rows(found)
