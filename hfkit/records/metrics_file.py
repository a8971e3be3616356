"""Reads `metrics.jsonl`: the logs of a run, one JSON object per line."""

from pathlib import Path

from hfkit.core.limits import load_json

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict]:
    """Read the lines of `metrics.jsonl`; skip a last line that a crash truncated."""
    rows = []
    path = Path(folder) / METRICS
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(load_json(line))
        except ValueError:
            break
    return rows
