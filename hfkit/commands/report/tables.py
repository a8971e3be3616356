"""Tables and sentences of a report: verdicts, metrics of the models, cost."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from hfkit.commands.report.formatting import duration, format_count, format_interval, format_number, metric_name
from hfkit.commands.report.gather import Gathered, ReportedRun, judge_of

# Titles of the keys in the quickstart's summary.
METRIC_TITLES = {
    "gold": "Gold score",
    "exact_answer": "Exact answers (share)",
    "reward": "Reward model's score",
    "kl_to_sft": "KL to SFT (nats per response)",
    "entropy": "Entropy (nats per token)",
    "reply_tokens": "Tokens per response",
    "bits_per_byte": "Held-out bits per byte",
}


@dataclass
class ReportTable:
    """Rows of texts; the first text of each is the row's header. `numeric` are the columns of numbers."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numeric: range
    notes: list[str] = field(default_factory=list)


def facts_of(gathered: Gathered) -> list[str]:
    """Return seed, device and total time, if known."""
    records = [run.record for run in gathered.runs]
    seeds = sorted({record["seed"] for record in records if record.get("seed") is not None})
    devices = sorted({record.get("environment", {}).get("device", "") for record in records} - {""})
    seconds = sum(record.get("wall_seconds") or 0 for record in records)
    facts = [f"seed {', '.join(map(str, seeds))}"] if seeds else []
    facts += [f"on {', '.join(devices)}"] if devices else []
    return facts + ([f"{duration(seconds)} of training"] if seconds else [])


def results_of(run: ReportedRun) -> str:
    """Return the final metrics of a run on one line: those on held-out rows, else all."""
    metrics = run.record.get("metrics", {})
    held_out = {key: value for key, value in metrics.items() if key.startswith("eval_")}
    values = ", ".join(f"{metric_name(key)} {format_value(value)}" for key, value in (held_out or metrics).items())
    return f"{'On held-out rows' if held_out else 'At the end'}: {values}." if values else ""


def verdicts_of(gathered: Gathered) -> list[str]:
    """Return sentences on whether each model beats the one before it, by the gold score and in each arena.

    Without either, they compare the rewards of held-out prompts before and after training.
    """
    models = gathered.summary.get("models", {})
    scored = [(name, one["gold"], *one["gold_interval"]) for name, one in models.items() if "gold" in one]
    sentences = [verdict(before, after, "gold score") for before, after in pairwise(scored)]
    for arena in gathered.arenas:
        rated = [(one["name"], one["rating"], one["low"], one["high"]) for one in arena.get("models", [])]
        sentences += [verdict(before, after, "arena rating") for before, after in pairwise(rated)]
    return sentences or [sentence for run in gathered.runs if (sentence := verdict_of_record(run))]


def verdict_of_record(run: ReportedRun) -> str:
    """Return what a run's record says of its responses before and after; or ""."""
    metrics = run.record.get("metrics", {})
    before, after, kl = (metrics.get(f"eval_{name}") for name in ("reward_sft", f"reward_{run.stage}", "kl"))
    if before is None or after is None:
        return ""
    moved = "rises" if after > before else "falls"
    distance = "" if kl is None else f", at a KL of {format_number(kl)} nats per response"
    return (
        f"{run.name}: the mean reward on held-out prompts {moved} from {format_number(before)} to "
        f"{format_number(after)}{distance}. Training maximized this reward, so it does not show that the responses are "
        "better."
    )


def verdict(before: tuple, after: tuple, measure: str) -> str:
    """Compare a model with the one before it, both given as (name, value, low, high)."""
    (name, value, low, high), (other, other_value, other_low, other_high) = after, before
    span = f"{format_interval(value, low, high)} against {format_interval(other_value, other_low, other_high)}"
    if low > other_high:
        return f"{name} beats {other} on the {measure}: {span}, intervals apart."
    if high < other_low:
        return f"{name} is worse than {other} on the {measure}: {span}, intervals apart."
    return f"the {measure} does not separate {name} and {other}: {span}, intervals overlap."


def model_tables(gathered: Gathered) -> list[ReportTable]:
    """Return tables of metrics with a column per model: the quickstart's, and one for each evaluation."""
    models = {name: dict(one) for name, one in gathered.summary.get("models", {}).items()}
    for one in models.values():
        one["gold_low"], one["gold_high"] = one.get("gold_interval", (None, None))
    tables = [comparison_table("Metrics of the quickstart", models, METRIC_TITLES)]
    for evaluation in gathered.evaluations:
        name = Path(str(evaluation.get("model", "a model"))).name
        models = evaluation.get("by_model") or {name: evaluation.get("metrics", {})}
        keys = dict.fromkeys(key for metrics in models.values() for key in metrics)
        titles = {key: metric_name(key) for key in keys if not key.endswith(("_low", "_high"))}
        titles = {key: title[:1].upper() + title[1:] for key, title in titles.items()}
        tables.append(comparison_table(f"Evaluation of {name}", models, titles))
    return [table for table in tables if table.rows]


def comparison_table(caption: str, models: dict[str, dict], keys: dict[str, str]) -> ReportTable:
    """Return a table with a column per model and a row per metric; `keys` maps metrics to labels."""
    rows = [[label, *(interval_cell(one, key) for one in models.values())] for key, label in keys.items()]
    rows = [row for row in rows if {*row[1:]} - {"–"}]
    caption += ", with 95% intervals where known"
    return ReportTable(caption, ["", *models], rows, range(1, len(models) + 1))


def interval_cell(metrics: dict, key: str) -> str:
    """Return a metric with its interval, or a dash if it has no value."""
    value = metrics.get(key)
    if not isinstance(value, (int, float)):
        return "–"
    return format_interval(value, metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))


def bench_tables(gathered: Gathered) -> list[ReportTable]:
    """Return a table for each bench: a column per model in the order of the bench, with the differences as notes."""
    tables = []
    for bench in gathered.benches:
        names = [model["name"] for model in bench["models"]]
        measured = {
            (task, metric): None
            for name in names
            for task, one in bench["results"][name].items()
            for metric in one["metrics"]
        }
        rows = []
        for task, metric in measured:
            found = [bench["results"][name].get(task, {}).get("metrics", {}).get(metric) for name in names]
            cells = ["–" if one is None else format_interval(one["value"], one["low"], one["high"]) for one in found]
            rows.append([f"{task}: {metric}{direction_of(found)}", *cells])
        rows_of = {one.get("rows") for of in bench["results"].values() for one in of.values()} - {None}
        size = f", {format_range(rows_of)} rows per task" if rows_of else ""
        caption = f"Tasks of lm-evaluation-harness {bench['lm_eval']}{size}, with 95% intervals"
        titles = bench_titles(gathered, bench)
        notes = [note for one in bench["differences"] if (note := difference_note(one, titles))]
        if bench["differences"] and not notes:
            notes = ["The interval of every difference between a model and the one before it includes 0."]
        tables.append(ReportTable(caption, ["", *titles.values()], rows, range(1, len(names) + 1), notes))
    return tables


def bench_titles(gathered: Gathered, bench: dict) -> dict[str, str]:
    """Return the title of each model of a bench: the name that the user gave it, else that of its run."""
    return {
        model["name"]: gathered.name_of(model) if model["name"] == Path(model["path"]).name else model["name"]
        for model in bench["models"]
    }


def direction_of(found: list[dict | None]) -> str:
    """Return an arrow up if a higher value of a metric is better, down if a lower one is; "" if unknown."""
    better = next((one.get("higher_is_better") for one in found if one), None)
    return "" if better is None else " ↑" if better else " ↓"


def format_range(counts: set[int]) -> str:
    """Return the smallest and the largest of some counts."""
    low, high = min(counts), max(counts)
    return format_count(low) if low == high else f"{format_count(low)} to {format_count(high)}"


def difference_note(one: dict, titles: dict[str, str]) -> str:
    """Return a sentence on a difference between two models whose interval does not include 0; or ""."""
    low, high = one["low"], one["high"]
    if low is None or high is None or low <= 0 <= high:
        return ""
    moved = "rises" if one["difference"] > 0 else "falls"
    worse = one["higher_is_better"] is not None and one["higher_is_better"] == (one["difference"] < 0)
    sizes = sorted((abs(low), abs(high)))
    span = format_interval(abs(one["difference"]), *sizes)
    cost = " This is a cost of the training." if worse else ""
    models = f"from {titles[one['before']]} to {titles[one['after']]}"
    return f"{one['task']}: {one['metric']} {moved} by {span} {models}.{cost}"


def pair_tables(gathered: Gathered) -> list[ReportTable]:
    """Return a table for each arena of how often each model won against each other."""
    tables = []
    for arena in gathered.arenas:
        rows = []
        for pair in arena.get("pairs", []):
            total = max(pair["wins_a"] + pair["wins_b"] + pair["ties"], 1)
            shares = [f"{pair[key]:,} ({pair[key] / total:.0%})" for key in ("wins_a", "ties", "wins_b")]
            rows.append([f"{pair['a']} against {pair['b']}", *shares])
        if rows:
            known = {key: value for key, value in arena.get("bias", {}).items() if value is not None}
            bias = [f"{metric_name(key)}: {format_value(value)}" for key, value in known.items()]
            notes = [f"The judge's bias: {'; '.join(bias)}."] if bias else []
            columns = ["", "First wins", "Ties", "Second wins"]
            tables.append(ReportTable(f"Wins, judged by {judge_of(arena)}", columns, rows, range(1, 4), notes))
    return tables


def format_value(value: object) -> str:
    """Return a value of a record as text."""
    return format_number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def cost_table(gathered: Gathered) -> ReportTable:
    """Return a table of time, steps, tokens, speed and memory of each run."""
    rows = [
        [
            run.name,
            run.state,
            duration(run.record.get("wall_seconds")),
            format_count(run.record.get("steps")),
            format_count(run.record.get("tokens")),
            format_count(run.record.get("tokens_per_second") or sampling_speed(run)),
            gigabytes(run.record.get("peak_memory_bytes")),
            run.record.get("environment", {}).get("device", "–"),
        ]
        for run in gathered.runs
    ]
    if len(rows) > 1:
        total = sum(run.record.get("wall_seconds") or 0 for run in gathered.runs)
        most = max(run.record.get("peak_memory_bytes") or 0 for run in gathered.runs)
        rows.append(["All stages", "", duration(total), "", "", "", gigabytes(most), ""])
    columns = ["Stage", "State", "Time", "Steps", "Tokens", "Tokens/s", "Peak memory", "Device"]
    caption = "Time, tokens and memory of each stage; for PPO, tokens/s is the speed of sampling"
    return ReportTable(caption, columns, rows, range(2, 7))


def gigabytes(count: int | None) -> str:
    """Return bytes in GB (1e9)."""
    return f"{count / 1e9:.2f} GB" if count else "–"


def sampling_speed(run: ReportedRun) -> float | None:
    """Return the mean tokens per second of PPO's sampling; None for other stages."""
    speeds = [row["val/tokens_per_second"] for row in run.metrics if "val/tokens_per_second" in row]
    return sum(speeds) / len(speeds) if speeds else None
