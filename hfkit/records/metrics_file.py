"""`metrics.jsonl`: the logs of a run, one JSON object a line."""

import json
from pathlib import Path

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict]:
    """The lines of `metrics.jsonl`; a last line that was cut off by a crash is left out."""
    rows = []
    path = Path(folder) / METRICS
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
