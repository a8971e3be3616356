"""`metrics.jsonl`: the logs of a run, one JSON object per line."""

import json
from pathlib import Path

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict]:
    """Read the lines of `metrics.jsonl`, without a last one that a crash cut off."""
    rows = []
    path = Path(folder) / METRICS
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
