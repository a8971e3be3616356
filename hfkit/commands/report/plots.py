"""The plots of a report: models side by side, curves of each stage, score against KL, lineage."""

import numpy as np

from hfkit.commands.report.figure_writer import GRID, LIGHT, SIZE, FigureWriter, PageFigure
from hfkit.commands.report.formatting import format_number, slug
from hfkit.commands.report.gather import Gathered, ReportedRun, judge_of, watched_scores
from hfkit.commands.report.lineage_graph import draw_lineage, lineage_nodes, ranks_of
from hfkit.training.plots import PANELS, Panel, panels_of

PPO_PANELS = [
    *PANELS,
    ("Entropy", "nats per token", [("objective/entropy", "sampled replies"), ("eval_entropy", "held out")]),
    ("Reply length", "tokens per reply", [("val/reply_length", "sampled replies"), ("eval_length", "held out")]),
    ("Policy loss", "clipped surrogate per token", [("loss/policy_avg", "training")]),
    ("Value loss", "half the squared error", [("loss/value_avg", "training")]),
]
BINS = 8  # parts that the updates are put into, by KL, for the curve of score against KL
# Of the quickstart's summary: key, title, x label.
MEASURED = [
    ("gold", "Gold score", "mean score, 0 to 1"),
    ("entropy", "Entropy", "nats per token"),
    ("reply_tokens", "Reply length", "tokens per reply"),
]
# Of an arena's diversity: key, title, y label.
DIVERSITY = [
    ("entropy", "Entropy by temperature", "nats per token"),
    ("self_bleu", "Likeness of replies by temperature", "self-BLEU"),
    ("distinct_2", "Different pairs of words by temperature", "distinct-2"),
    ("length", "Reply length by temperature", "tokens per reply"),
]


def summary_figures(studio: FigureWriter, gathered: Gathered) -> list[PageFigure]:
    """What the quickstart measured of each model."""
    summary = gathered.summary
    figures = []
    for key, title, label in MEASURED:
        rows = [
            (name, model[key], *(model.get(f"{key}_interval") or (None, None)))
            for name, model in summary.get("models", {}).items()
            if key in model
        ]
        if rows:
            note = f"Of replies to {summary['questions']:,} held-out questions" if "questions" in summary else ""
            note += ", with 95% intervals" if rows[0][2] is not None else ""
            figures.append(studio.intervals(f"models-{slug(key)}", title, label, rows, note and f"{note}."))
    return figures


def arena_figures(studio: FigureWriter, gathered: Gathered) -> list[PageFigure]:
    """Ratings of each arena, and diversity over temperatures."""
    figures = []
    for place, arena in enumerate(gathered.arenas, 1):
        name = "arena" if place == 1 else f"arena-{place}"
        rated = sorted(arena.get("models", []), key=lambda one: one["rating"])
        rows = [(one["name"], one["rating"], one["low"], one["high"]) for one in rated]
        if rows:
            note = f"Judged by {judge_of(arena)}, with 95% intervals. {arena.get('judge', {}).get('warning') or ''}"
            figures.append(studio.intervals(name, "Arena ratings", "rating (Elo scale)", rows, note.strip()))
        for key, title, label in DIVERSITY:
            series: dict[str, list[tuple]] = {}
            for one in arena.get("diversity", []):
                if one.get(key) is not None:
                    series.setdefault(one["model"], []).append((one["temperature"], one[key]))
            if series:
                series = {model: sorted(points) for model, points in series.items()}
                figures.append(studio.lines(f"{name}-{slug(key)}", title, "temperature", label, series))
    return figures


def training_figures(studio: FigureWriter, gathered: Gathered) -> dict[str, list[PageFigure]]:
    """The curves of each stage, by its name."""
    return {
        stage.name: [
            curve_figure(studio, stage, panel)
            for panel in panels_of(stage.metrics, stage.kind, PPO_PANELS if stage.kind == "ppo" else PANELS)
        ]
        for stage in gathered.stages
        if stage.metrics
    }


def curve_figure(studio: FigureWriter, stage: ReportedRun, panel: Panel) -> PageFigure:
    """A plot of curves over the steps of a stage."""
    title = f"{stage.name}: {panel.title if panel.title.startswith('KL') else panel.title.lower()}"
    ways = [
        f"{legend} from {format_number(points[0][1])} to {format_number(points[-1][1])}"
        for legend, points in panel.series
    ]
    alt = f"{title}, {panel.label}: {'; '.join(ways)}, over {panel.series[0][1][-1][0]} {panel.steps}"
    return studio.figure(slug(f"{stage.folder.name} {panel.title}"), title, alt, panel.draw)


def overoptimization_figures(studio: FigureWriter, gathered: Gathered) -> list[PageFigure]:
    """A plot for every score that PPO looked at and did not learn from."""
    return [
        overoptimization_figure(studio, stage, key) for stage in gathered.of("ppo") for key in watched_scores(stage)
    ]


def overoptimization_figure(studio: FigureWriter, stage: ReportedRun, key: str) -> PageFigure:
    """A score that is not trained on, and the reward, against the KL (Gao et al. 2022, arXiv 2210.10760).

    Args:
        key: of the score in the run's metrics, `objective/score_MODULE:FUNCTION`.
    """
    rows = sorted((row for row in stage.metrics if key in row), key=lambda row: row["objective/kl"])
    parts = [list(part) for part in np.array_split(rows, min(BINS, len(rows)))]
    kl, watched, reward = (
        [float(np.mean([row[one] for row in part])) for part in parts]
        for one in ("objective/kl", key, "objective/scores")
    )
    name = key.rpartition(":")[2].removeprefix("objective/score_")

    def draw(axes) -> None:
        axes.scatter([row["objective/kl"] for row in rows], [row[key] for row in rows], s=9, alpha=0.4)
        axes.plot(kl, watched, marker="o", markersize=4, color=LIGHT["first"], label=f"{name}: not trained on")
        axes.set(xlabel="KL to the SFT model (nats per reply)", ylabel=f"{name}, mean score")
        axes.grid(alpha=GRID)
        right = axes.twinx()
        right.plot(kl, reward, marker="s", markersize=3.5, color=LIGHT["second"], label="reward: trained on")
        right.set(ylabel="reward, mean score")
        right.spines["right"].set_visible(True)

    title = f"{stage.name}: {name} score against KL"
    alt = (
        f"{title}: as KL grows to {format_number(kl[-1])} nats per reply, the {name} score, which is not trained on, "
        f"goes from {format_number(watched[0])} to {format_number(watched[-1])}, "
        f"the reward from {format_number(reward[0])} to {format_number(reward[-1])}"
    )
    note = (
        f"A dot an update; lines through the means of {len(parts)} parts of them, by KL. If the reward still rises "
        f"where the {name} score falls, the policy games the reward."
    )
    return studio.figure(slug(f"{stage.folder.name} {name}"), title, alt, draw, note)


def lineage_figure(studio: FigureWriter, gathered: Gathered) -> PageFigure:
    """What was made from what."""
    nodes = lineage_nodes(gathered)
    told = [
        f"{node.title} from {' and '.join(nodes[parent].title for parent, _ in node.parents)}"
        for node in nodes.values()
        if node.parents
    ]
    size = (SIZE[0], 0.3 + 0.8 * (max(ranks_of(nodes).values()) + 1))
    return studio.figure(
        "lineage", "", f"Lineage: {'; '.join(told) or 'one run'}", lambda axes: draw_lineage(axes, nodes), "", size
    )
