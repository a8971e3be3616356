"""What a report says in words and tables: verdicts, figures of the models, data, cost, warnings."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from hfkit.commands.report.formatting import (
    capitalized,
    duration,
    format_count,
    format_interval,
    format_number,
    gigabytes,
    metric_name,
)
from hfkit.commands.report.gather import Gathered, ReportedRun, judge_of

# Of the quickstart's summary: key and what it is.
METRIC_TITLES = {
    "gold": "Gold score",
    "exact_answer": "Exact answers (share)",
    "reward": "Reward model's score",
    "kl_to_sft": "KL to SFT (nats per reply)",
    "entropy": "Entropy (nats per token)",
    "reply_tokens": "Tokens per reply",
    "bits_per_byte": "Held-out bits per byte",
}
DATA = "What each stage learnt from, and was measured on"
COST = "Time, tokens and memory of each stage; of PPO, the tokens a second are those of the sampling"
STATUS_TITLES = {"done": "done", "running": "not finished", "failed": "failed"}


@dataclass
class ReportTable:
    """Texts in rows; the first of a row names it. `numeric` are the columns of figures."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: range
    notes: list[str] = field(default_factory=list)


def facts_of(gathered: Gathered) -> list[str]:
    """Seed, device and time of the whole, as far as they are known."""
    records = [stage.record for stage in gathered.stages]
    seeds = sorted({record["seed"] for record in records if record.get("seed") is not None})
    devices = sorted({record.get("environment", {}).get("device", "") for record in records} - {""})
    seconds = sum(record.get("wall_seconds") or 0 for record in records)
    told = [f"seed {', '.join(map(str, seeds))}" if seeds else "", "on " + ", ".join(devices) if devices else ""]
    return [*filter(None, [*told, f"{duration(seconds)} of training" if seconds else ""])]


def results_of(stage: ReportedRun) -> str:
    """The final figures of a stage's record in a line."""
    metrics = stage.record.get("metrics", {})
    held_out = {key: value for key, value in metrics.items() if key.startswith("eval_")} or metrics
    told = ", ".join(f"{metric_name(key)} {format_value(value)}" for key, value in held_out.items())
    return f"{'Held out' if held_out is not metrics else 'At its end'}: {told}." if told else ""


def verdicts_of(gathered: Gathered) -> list[str]:
    """Whether each model is better than the one before it, in a sentence each: on the gold score, and in each arena."""
    told = []
    models = gathered.summary.get("models", {})
    scored = [(name, one["gold"], *one["gold_interval"]) for name, one in models.items() if "gold" in one]
    told += [verdict(before, after, "gold score") for before, after in pairwise(scored)]
    for arena in gathered.arenas:
        rated = [(one["name"], one["rating"], one["low"], one["high"]) for one in arena.get("models", [])]
        told += [verdict(before, after, "arena rating") for before, after in pairwise(rated)]
    return told


def verdict(before: tuple, after: tuple, measure: str) -> str:
    """One model against the one before it; both are (name, value, low, high)."""
    (name, *figures), (other, *were) = after, before
    (_, low, high), (_, was_low, was_high) = figures, were
    span = f"{format_interval(*figures)} against {format_interval(*were)}"
    if low > was_high:
        return f"{name} beats {other} on the {measure}: {span}, intervals apart."
    if high < was_low:
        return f"{name} is worse than {other} on the {measure}: {span}, intervals apart."
    return f"{name} and {other} are not told apart by the {measure}: {span}, intervals overlapping."


def model_tables(gathered: Gathered) -> list[ReportTable]:
    """Figures of the models side by side: the quickstart's, and those of each evaluation."""
    models = {name: dict(one) for name, one in gathered.summary.get("models", {}).items()}
    for one in models.values():
        one["gold_low"], one["gold_high"] = one.get("gold_interval", (None, None))
    tables = [comparison_table("What the quickstart measured", models, METRIC_TITLES)]
    for evaluation in gathered.evaluations:
        name = Path(str(evaluation.get("model", "a model"))).name
        models = evaluation.get("by_model") or {name: evaluation.get("metrics", {})}
        keys = {
            key: capitalized(metric_name(key))
            for one in models.values()
            for key in one
            if not key.endswith(("_low", "_high"))
        }
        tables.append(comparison_table(f"Evaluation of {name}", models, keys))
    return [table for table in tables if table.rows]


def comparison_table(caption: str, models: dict[str, dict], keys: dict[str, str]) -> ReportTable:
    """Figures of models, one a column, with their intervals; `keys` are the metrics with their labels."""
    rows = [[label, *(interval_text(one, key) for one in models.values())] for key, label in keys.items()]
    rows = [row for row in rows if {*row[1:]} - {"–"}]
    return ReportTable(
        f"{caption}, with 95% intervals where there are any", ["", *models], rows, range(1, len(models) + 1)
    )


def interval_text(figures: dict, key: str) -> str:
    """A figure, with its interval where there is one."""
    value = figures.get(key)
    if not isinstance(value, (int, float)):
        return "–"
    return format_interval(value, figures.get(f"{key}_low"), figures.get(f"{key}_high"))


def pair_tables(gathered: Gathered) -> list[ReportTable]:
    """Of each arena, how often each model won against each other one."""
    tables = []
    for arena in gathered.arenas:
        rows = []
        for pair in arena.get("pairs", []):
            total = max(pair["wins_a"] + pair["wins_b"] + pair["ties"], 1)
            shares = [f"{pair[key]:,} ({pair[key] / total:.0%})" for key in ("wins_a", "ties", "wins_b")]
            rows.append([f"{pair['a']} against {pair['b']}", *shares])
        if rows:
            bias = [
                f"{metric_name(key)}: {format_value(value)}"
                for key, value in arena.get("bias", {}).items()
                if value is not None
            ]
            notes = [f"Of the judge's bias: {'; '.join(bias)}."] if bias else []
            columns = ["", "First wins", "Ties", "Second wins"]
            tables.append(ReportTable(f"Who wins, judged by {judge_of(arena)}", columns, rows, range(1, 4), notes))
    return tables


def format_value(value: object) -> str:
    """A value of a record as text."""
    return format_number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def data_table(gathered: Gathered) -> ReportTable:
    """Every source of every split of every stage: its rows, and how many of them one pass takes."""
    rows = []
    for stage in gathered.stages:
        for split in stage.record.get("data", {}).values():
            place, sources = [stage.name, split.get("name", "")], split["sources"]
            whole_split = {"rows": split.get("mixed") or split["kept"], "tokens": split["tokens"], "share": 1.0}
            for source in sources:
                taken = whole_split if len(sources) == 1 else source.get("taken", {})
                given = source.get("rows", split["rows"])
                rows.append(
                    [
                        *place,
                        dataset_title(source),
                        *amount_cells(given, taken),
                        describe_losses(split) if len(sources) == 1 else "",
                    ]
                )
            if len(sources) > 1:
                rows.append([*place, "all of them", *amount_cells(split["rows"], whole_split), describe_losses(split)])
    columns = ["Stage", "Split", "Source", "Rows", "In a pass", "Share", "Tokens", "Dropped, cut, faulty"]
    return ReportTable(DATA, columns, rows, range(3, 7))


def amount_cells(given: int, taken: dict) -> list[str]:
    """Rows that are there, and what one pass takes of them: rows, share, tokens."""
    share = f"{taken['share']:.0%}" if "share" in taken else "–"
    return [format_count(given), format_count(taken.get("rows")), share, format_count(taken.get("tokens"))]


def dataset_title(source: dict) -> str:
    """A data set by its card, its Hub id or its file."""
    if "held_out_of" in source:
        return f"held out of {source['held_out_of']}"
    if source.get("card"):
        return source["card"]
    path = str(source.get("path", "?"))
    return path.rpartition("/")[2] if path.startswith(("/", ".")) else path


def describe_losses(split: dict) -> str:
    """What became of a split's rows that is worth a word, and why."""
    counts = {
        **split.get("dropped", {}),
        **({"cut": split["cut"]} if split.get("cut") else {}),
        **split.get("faults", {}),
    }
    return ", ".join(f"{count:,} {why}" for why, count in counts.items()) or "none"


def cost_table(gathered: Gathered) -> ReportTable:
    """Time, steps, tokens, speed and memory of each stage."""
    rows = [
        [
            stage.name,
            STATUS_TITLES.get(stage.record.get("status"), "unknown"),
            duration(stage.record.get("wall_seconds")),
            format_count(stage.record.get("steps")),
            format_count(stage.record.get("tokens")),
            format_count(stage.record.get("tokens_per_second") or sampling_speed(stage)),
            gigabytes(stage.record.get("peak_memory_bytes")),
            stage.record.get("environment", {}).get("device", "–"),
        ]
        for stage in gathered.stages
    ]
    if len(rows) > 1:
        total = sum(stage.record.get("wall_seconds") or 0 for stage in gathered.stages)
        most = max(stage.record.get("peak_memory_bytes") or 0 for stage in gathered.stages)
        rows.append(["All stages", "", duration(total), "", "", "", gigabytes(most), ""])
    columns = ["Stage", "State", "Time", "Steps", "Tokens", "Tokens/s", "Peak memory", "Device"]
    return ReportTable(COST, columns, rows, range(2, 7))


def sampling_speed(stage: ReportedRun) -> float | None:
    """Tokens a second while PPO samples."""
    speeds = [row["val/tokens_per_second"] for row in stage.metrics if "val/tokens_per_second" in row]
    return sum(speeds) / len(speeds) if speeds else None
