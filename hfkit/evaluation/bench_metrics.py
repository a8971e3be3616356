"""Turns results of lm-evaluation-harness into metrics with intervals, and compares models row by row."""

import math

from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.metrics.shares import Z, wilson_interval

DETAILS = ("name", "alias", "sample_len", "sample_count")
"""The keys of the harness's results that are no metrics."""


def results_of_task(ran: dict, identity: str) -> dict[str, dict]:
    """Return the results of a run of the harness, by task and group.

    Args:
        ran: what `lm_eval.evaluate` returned.
        identity: hash of the settings and rows of what ran.

    Returns:
        metrics (by name: value, stderr, low, high, higher_is_better, and `values` of each row), version, rows,
        num_fewshot, sha256.
    """
    return {
        task: {
            "metrics": metrics_of(measured, ran["samples"].get(task, []), ran["higher_is_better"].get(task) or {}),
            "version": ran["versions"].get(task),
            "rows": ran.get("n-samples", {}).get(task, {}).get("effective"),
            "num_fewshot": ran["n-shot"].get(task),
            "sha256": identity,
        }
        for task, measured in ran["results"].items()
        if any(is_metric(key, value) for key, value in measured.items())
    }


def is_metric(key: str, value: object) -> bool:
    """Return whether an entry of the harness's results is a metric; their keys are `metric,filter`."""
    return key not in DETAILS and "," in key and "_stderr," not in key and isinstance(value, (int, float))


def metrics_of(measured: dict, samples: list[dict], directions: dict) -> dict[str, dict]:
    """Return the metrics of a task: by name, and with its filter if it has one."""
    metrics = {}
    for key, value in measured.items():
        if not is_metric(key, value):
            continue
        metric, _, chosen = key.partition(",")
        stderr = measured.get(f"{metric}_stderr,{chosen}")
        stderr = float(stderr) if isinstance(stderr, (int, float)) else None
        values = row_values(samples, metric, chosen)
        if values is not None and not math.isclose(sum(values) / len(values), value, abs_tol=1e-9):
            values = None  # not a mean over rows, such as a perplexity
        low, high = interval_of(float(value), stderr, values)
        name = metric if chosen == "none" else f"{metric} ({chosen})"
        metrics[name] = {
            **{"value": float(value), "stderr": stderr, "low": low, "high": high},
            **{"higher_is_better": directions.get(metric), "values": values},
        }
    return metrics


def row_values(samples: list[dict], metric: str, chosen: str) -> list[float] | None:
    """Return a metric of each row, in the order of the rows; None if it is not a number of each."""
    rows = sorted((row for row in samples if row["filter"] == chosen), key=lambda row: row["doc_id"])
    values = [row.get(metric) for row in rows]
    return [float(value) for value in values] if values and all(isinstance(v, (int, float)) for v in values) else None


def interval_of(value: float, stderr: float | None, values: list[float] | None) -> tuple[float | None, float | None]:
    """Return the 95% interval of a metric: Wilson's for a share of rows, else from the standard error, if known."""
    if values is not None and {*values} <= {0.0, 1.0}:
        return wilson_interval(value, len(values))
    return (None, None) if stderr is None else (value - Z * stderr, value + Z * stderr)


def compare_results(before: str, after: str, found: dict[str, dict]) -> list[dict]:
    """Return the difference of each metric that two models share.

    Means over the same rows are compared row by row, with a bootstrap interval; others as two independent samples.

    Args:
        found: the results of each model, by model and task.
    """
    differences = []
    for task, of_task in found[after].items():
        earlier = found[before].get(task, {}).get("metrics", {})
        for metric, new in of_task["metrics"].items():
            if metric in earlier:
                names = {"task": task, "metric": metric, "before": before, "after": after}
                better = {"higher_is_better": new["higher_is_better"]}
                differences.append({**names, **difference_of(earlier[metric], new), **better})
    return differences


def difference_of(old: dict, new: dict) -> dict:
    """Return the difference of a metric between two models, with its 95% interval, and whether rows were paired."""
    difference = new["value"] - old["value"]
    is_paired = bool(old["values"] and new["values"]) and len(old["values"]) == len(new["values"])
    low, high = None, None
    if is_paired:
        low, high = bootstrap_interval([b - a for a, b in zip(old["values"], new["values"], strict=True)])
    elif old["stderr"] is not None and new["stderr"] is not None:
        width = Z * math.hypot(old["stderr"], new["stderr"])
        low, high = difference - width, difference + width
    return {"difference": difference, "low": low, "high": high, "is_paired": is_paired}
