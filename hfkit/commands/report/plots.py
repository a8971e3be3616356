"""Plots of a report: models side by side, curves of each stage, score against KL, lineage."""

import numpy as np

from hfkit.commands.report.figure_writer import GRID, LIGHT, FigureWriter, PageFigure
from hfkit.commands.report.formatting import format_number, slug
from hfkit.commands.report.gather import Gathered, ReportedRun, judge_of, watched_scores
from hfkit.commands.report.lineage_graph import draw_lineage, lineage_nodes, lineage_size
from hfkit.commands.report.tables import bench_titles
from hfkit.training.plots import PANELS, Panel, panels_of

ONLINE_PANELS = [
    *PANELS,
    ("Entropy", "nats per token", [("objective/entropy", "sampled responses"), ("eval_entropy", "held out")]),
    (
        "Response length",
        "tokens per response",
        [("val/reply_length", "sampled responses"), ("eval_length", "held out")],
    ),
    ("Policy loss", "clipped surrogate per token", [("loss/policy_avg", "training")]),
    ("Value loss", "half the squared error", [("loss/value_avg", "training")]),
]
BINS = 8  # groups of updates with similar KL, for the curve of score against KL
BENCH_FIGURES = 6  # the most metrics of a bench that are drawn; its table has all
# Key in the quickstart's summary, title, x label.
MEASURED = [
    ("gold", "Gold score", "mean score, 0 to 1"),
    ("entropy", "Entropy", "nats per token"),
    ("reply_tokens", "Response length", "tokens per response"),
]
# Key in an arena's diversity, title, y label.
DIVERSITY = [
    ("entropy", "Entropy by temperature", "nats per token"),
    ("self_bleu", "Similarity of responses by temperature", "self-BLEU"),
    ("distinct_2", "Distinct word pairs by temperature", "distinct-2"),
    ("length", "Response length by temperature", "tokens per response"),
]


def summary_figures(writer: FigureWriter, gathered: Gathered) -> list[PageFigure]:
    """Draw the quickstart's measurements of each model."""
    summary = gathered.summary
    figures = []
    for key, title, label in MEASURED:
        rows = [
            (name, model[key], *(model.get(f"{key}_interval") or (None, None)))
            for name, model in summary.get("models", {}).items()
            if key in model
        ]
        if rows:
            note = f"Of responses to {summary['questions']:,} held-out questions" if "questions" in summary else ""
            note += ", with 95% intervals" if rows[0][2] is not None else ""
            figures.append(writer.intervals(f"models-{slug(key)}", title, label, rows, note and f"{note}."))
    return figures


def arena_figures(writer: FigureWriter, gathered: Gathered) -> list[PageFigure]:
    """Draw the ratings of each arena, and diversity by temperature."""
    figures = []
    for number, arena in enumerate(gathered.arenas, 1):
        name = "arena" if number == 1 else f"arena-{number}"
        rated = sorted(arena.get("models", []), key=lambda one: one["rating"])
        rows = [(one["name"], one["rating"], one["low"], one["high"]) for one in rated]
        if rows:
            note = f"Judged by {judge_of(arena)}, with 95% intervals. {arena.get('judge', {}).get('warning') or ''}"
            figures.append(writer.intervals(name, "Arena ratings", "rating (Elo scale)", rows, note.strip()))
        for key, title, label in DIVERSITY:
            series: dict[str, list[tuple]] = {}
            for one in arena.get("diversity", []):
                if one.get(key) is not None:
                    series.setdefault(one["model"], []).append((one["temperature"], one[key]))
            if series:
                series = {model: sorted(points) for model, points in series.items()}
                figures.append(writer.lines(f"{name}-{slug(key)}", title, "temperature", label, series))
    return figures


def bench_figures(writer: FigureWriter, gathered: Gathered) -> list[PageFigure]:
    """Draw the first metrics of each bench, each over the models."""
    figures = []
    for number, bench in enumerate(gathered.benches, 1):
        titles = bench_titles(gathered, bench)
        first = bench["results"][bench["models"][0]["name"]]
        pairs = [(task, metric) for task, one in first.items() for metric in one["metrics"]]
        for task, metric in pairs[:BENCH_FIGURES]:
            measured = [(title, bench["results"][name].get(task, {})) for name, title in titles.items()]
            found = [(title, one["metrics"][metric]) for title, one in measured if metric in one.get("metrics", {})]
            rows = [(title, one["value"], one["low"], one["high"]) for title, one in found]
            name = slug(f"bench-{number} {task} {metric}")
            figures.append(writer.intervals(name, task, metric, rows))
    return figures


def training_figures(writer: FigureWriter, gathered: Gathered) -> dict[str, list[PageFigure]]:
    """Draw the curves of each run, by the run's name."""
    figures = {}
    for run in gathered.runs:
        panels = ONLINE_PANELS if run.spec and run.spec.samples_replies else PANELS
        figures[run.name] = [curve_figure(writer, run, one) for one in panels_of(run.metrics, run.stage, panels)]
    return {name: drawn for name, drawn in figures.items() if drawn}


def curve_figure(writer: FigureWriter, run: ReportedRun, panel: Panel) -> PageFigure:
    """Draw curves over the steps of a run."""
    title = f"{run.name}: {panel.title}"
    ends = {legend: [format_number(points[index][1]) for index in (0, -1)] for legend, points in panel.series}
    ranges = [f"{legend} from {first} to {last}" for legend, (first, last) in ends.items()]
    alt = f"{title}, {panel.label}: {'; '.join(ranges)}, over {panel.series[0][1][-1][0]} {panel.steps}"
    return writer.figure(slug(f"{run.folder.name} {panel.title}"), title, alt, panel.draw)


def overoptimization_figures(writer: FigureWriter, gathered: Gathered) -> list[PageFigure]:
    """Draw each score that PPO logged and did not train on."""
    return [overoptimization_figure(writer, run, key) for run in gathered.runs for key in watched_scores(run)]


def overoptimization_figure(writer: FigureWriter, run: ReportedRun, key: str) -> PageFigure:
    """Draw a score that is not trained on, and the reward, against the KL (Gao et al. 2022, arXiv 2210.10760).

    Args:
        key: the score's key in the run's metrics, `objective/score_MODULE:FUNCTION`.
    """
    rows = sorted(
        (row for row in run.metrics if {key, "objective/kl"} <= row.keys()), key=lambda row: row["objective/kl"]
    )
    parts = [list(part) for part in np.array_split(rows, min(BINS, len(rows)))]
    kl, watched, reward = (
        [float(np.mean([row[one] for row in part])) for part in parts]
        for one in ("objective/kl", key, "objective/scores")
    )
    name = key.rpartition(":")[2].removeprefix("objective/score_")

    def draw(axes) -> None:
        axes.scatter([row["objective/kl"] for row in rows], [row[key] for row in rows], s=9, alpha=0.4)
        axes.plot(kl, watched, marker="o", markersize=4, color=LIGHT["first"], label=f"{name}: not trained on")
        axes.set(xlabel="KL to the reference model (nats per response)", ylabel=f"{name}, mean score")
        axes.grid(alpha=GRID)
        right = axes.twinx()
        right.plot(kl, reward, marker="s", markersize=3.5, color=LIGHT["second"], label="reward: trained on")
        right.set(ylabel="reward, mean score")
        right.spines["right"].set_visible(True)

    title = f"{run.name}: {name} score against KL"
    alt = (
        f"{title}: as KL grows to {format_number(kl[-1])} nats per response, the {name} score (not trained on) "
        f"goes from {format_number(watched[0])} to {format_number(watched[-1])}, "
        f"the reward from {format_number(reward[0])} to {format_number(reward[-1])}"
    )
    note = (
        f"Each dot is an update; lines connect the means of {len(parts)} groups with similar KL. If the reward rises "
        f"while the {name} score falls, the policy is exploiting the reward."
    )
    return writer.figure(slug(f"{run.folder.name} {name}"), title, alt, draw, note)


def lineage_figure(writer: FigureWriter, gathered: Gathered) -> PageFigure:
    """Draw the lineage of the runs."""
    nodes = lineage_nodes(gathered)
    parents = [
        f"{node.title} from {' and '.join(nodes[parent].title for parent, _ in node.parents)}"
        for node in nodes.values()
        if node.parents
    ]
    size = tuple(length + 0.2 for length in lineage_size(nodes))
    alt = f"Lineage: {'; '.join(parents) or 'one run'}"
    return writer.figure("lineage", "", alt, lambda axes: draw_lineage(axes, nodes), size=size)
