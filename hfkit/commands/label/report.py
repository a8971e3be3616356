"""Counts and agreement of judgements: `labels.json`, and what the terminal shows of it."""

from collections import Counter
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from hfkit.commands.label.export import judged_ranks, judgements_by_row, write_rows
from hfkit.commands.label.labels_file import JUDGEMENT, SKIP
from hfkit.commands.label.rows import Row
from hfkit.config.labeling import LabelConfig
from hfkit.core.files import write_record
from hfkit.core.tables import make_console
from hfkit.data.splits import SplitStats
from hfkit.metrics.agreement import agreement
from hfkit.records.environment import environment
from hfkit.records.record import settings_of

LABEL_RESULTS = "labels.json"


def write_results(config: LabelConfig, rows: list[Row], stats: SplitStats, events: list[dict]) -> dict:
    """Write rankings, instructions and `labels.json`, and return what it holds.

    Args:
        events: the judgements and skips that count, as `LabelsFile.counting` returns them.

    Returns:
        counts (rows, judged, enough, judgements, skips, all_bad, gone, rankings, instructions), labelers (name,
        judgements, skips, answers, seconds), flags, agreement, data, settings, environment.
    """
    folder, keys = Path(config.output_dir), {row.key for row in rows}
    known = [event for event in events if event["row"] in keys]
    by_row = judgements_by_row(known)
    judgements = [event for event in known if event["kind"] == JUDGEMENT]
    counts = {
        "rows": len(rows),
        "judged": len(by_row),
        "enough": sum(len(own) >= config.overlap for own in by_row.values()),
        "judgements": len(judgements),
        "skips": len(known) - len(judgements),
        "all_bad": sum(bool(event.get("all_bad")) for event in judgements),
        "gone": len(events) - len(known),
        **write_rows(folder, rows, judgements_by_row(known, config.labelers)),
    }
    sizes = {row.key: len(row.replies) for row in rows}
    verdicts = {
        row: {event["labeler"]: judged_ranks(event, sizes[row]) for event in own}
        for row, own in by_row.items()
        if sizes[row] > 1
    }
    result = {
        "counts": counts,
        "labelers": [labeler_summary(name, known) for name in sorted({event["labeler"] for event in known})],
        "flags": dict(Counter(flag for event in judgements for own in event.get("flags") or [] for flag in own)),
        "agreement": agreement(verdicts),
        "data": stats.as_dict(),
        "settings": settings_of(config),
        "environment": environment(),
    }
    write_record(folder / LABEL_RESULTS, result)
    return result


def labeler_summary(name: str, events: list[dict]) -> dict:
    """Return the counts of a labeler, and the median of the seconds per judgement."""
    own = [event for event in events if event["labeler"] == name]
    judgements = [event for event in own if event["kind"] == JUDGEMENT]
    seconds = [event["seconds"] for event in judgements if event.get("seconds") is not None]
    return {
        "name": name,
        "judgements": len(judgements),
        "skips": sum(event["kind"] == SKIP for event in own),
        "answers": sum(bool(event.get("answer")) for event in judgements),
        "seconds": float(np.median(seconds)) if seconds else None,
    }


def print_results(result: dict) -> None:
    """Print the counts, a row for each labeler, and the agreement."""
    counts, console = result["counts"], make_console(width=110)
    gone = f"; {counts['gone']:,} judgements of rows that are gone" if counts["gone"] else ""
    console.print(
        f"{counts['judged']:,} of {counts['rows']:,} rows judged, {counts['judgements']:,} judgements, "
        f"{counts['skips']:,} skips{gone}: {counts['rankings']:,} rankings, {counts['instructions']:,} instructions",
        highlight=False,
        soft_wrap=True,
    )
    if result["labelers"]:
        numbers = ("judgements", "skips", "answers", "seconds per row (median)")
        table = Table("", *(Column(name, justify="right") for name in numbers))
        for row in result["labelers"]:
            seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
            table.add_row(row["name"], *(f"{row[key]:,}" for key in ("judgements", "skips", "answers")), seconds)
        console.print(table)
    found = result["agreement"]
    if found["pairs"]:
        interval = "" if found["low"] is None else f" (95% interval {found['low']:.2f} to {found['high']:.2f})"
        alpha = "undefined" if found["alpha"] is None else f"{found['alpha']:.2f}{interval}"
        console.print(
            f"agreement: alpha {alpha}; {found['equal']:.0%} of the verdicts on {found['pairs']:,} pairs are equal",
            highlight=False,
            soft_wrap=True,
        )
