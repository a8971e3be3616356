"""Turns sampled responses into rows that the stages read: rankings without ranks, and instructions."""

from collections import Counter

import numpy as np

from hfkit.evaluation.instruction_rows import instruction_rows
from hfkit.evaluation.prompts import OPTIONS


def rankings_of(
    rows: list[dict], texts: list[list[str]], names: list[str], scores: np.ndarray | None
) -> tuple[list[dict], dict[str, int]]:
    """Return rankings without ranks, with scores if there are any, and counts of what is left out.

    Empty responses and repeated ones are left out; a prompt with fewer than two others has nothing to compare.

    Args:
        names: the model of each sample, (K,).
    """
    kept, counts = [], Counter(prompts=len(rows), responses=sum(map(len, texts)))
    for index, (row, own) in enumerate(zip(rows, texts, strict=True)):
        order = [one for one, text in enumerate(own) if text and text not in own[:one]]
        counts["empty"] += own.count("")
        counts["repeated"] += len(own) - own.count("") - len(order)
        if len(order) < 2:
            counts["prompts_without_a_choice"] += 1
            continue
        options = {name: row[name] for name in OPTIONS if row.get(name)}
        ranking = {"prompt": row["prompt"], "replies": [own[one] for one in order], **options}
        ranking["models"] = [names[one] for one in order]
        if scores is not None:
            ranking["scores"] = [float(scores[index, one]) for one in order]
        kept.append(ranking)
    return kept, {name: counts[name] for name in (*counts, "empty", "repeated", "prompts_without_a_choice")}


def best_rows(rows: list[dict], texts: list[list[str]], scores: np.ndarray) -> list[dict]:
    """Return the best response to each prompt as rows for SFT; an empty response is never the best."""
    best = []
    for row, own, rewards in zip(rows, texts, scores, strict=True):
        written = [(reward, text) for reward, text in zip(rewards, own, strict=True) if text]
        if written:
            options = {name: row[name] for name in OPTIONS if row.get(name)}
            best.append((row["prompt"], max(written, key=lambda pair: pair[0])[1], options))
    return instruction_rows(best)
