"""Plots the curves of a run as a PNG."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hfkit.config.registry import spec_of
from hfkit.records.metrics_file import read_metrics
from hfkit.training.plot_style import THEMES, plot_style

# (title, y label, [(key, legend)]) per panel; a panel without data is not drawn.
PANELS = [
    ("Loss", "cross entropy (nats per token)", [("loss", "training"), ("eval_loss", "held out")]),
    ("Bits per byte", "bits per byte", [("eval_bits_per_byte", "held out")]),
    (
        "Accuracy",
        "share of pairs ranked right",
        [("accuracy", "training"), ("rewards/accuracies", "training"), ("eval_accuracy", "held out")],
    ),
    ("Reward", "mean score", [("objective/scores", "sampled responses"), ("eval_reward", "held out")]),
    (
        "KL to the reference model",
        "nats per response",
        [("objective/kl", "sampled responses"), ("eval_kl", "held out")],
    ),
]


@dataclass
class Panel:
    """One plot of curves over steps.

    Args:
        series: legend and points (step, value) of each curve.
        steps: label of the x axis.
    """

    title: str
    label: str
    series: list[tuple[str, list[tuple[float, float]]]]
    steps: str = "optimizer steps"

    def draw(self, axes) -> None:
        """Draw the curves, with the labels of the axes."""
        for legend, points in self.series:
            axes.plot(*zip(*points, strict=True), label=legend, marker="o" if len(points) < 20 else None, markersize=3)
        axes.set(title=self.title, xlabel=self.steps, ylabel=self.label)
        tick_whole_steps(axes, [step for _, points in self.series for step, _ in points])


def tick_whole_steps(axes, steps: list[float]) -> None:
    """Put the ticks of the x axis at whole steps, also if there is only one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len({*steps}) == 1:
        axes.set_xlim(steps[0] - 1, steps[0] + 1)


def panels_of(rows: list[dict], stage: str | None, panels: list[tuple] = PANELS) -> list[Panel]:
    """Return the panels for which the lines of a `metrics.jsonl` have values.

    Args:
        stage: sets the labels of the loss and the x axis.
    """
    spec, drawn = spec_of(stage), []
    for title, label, lines in panels:
        series = [(legend, [(row["step"], row[key]) for row in rows if key in row]) for key, legend in lines]
        series = [(legend, points) for legend, points in series if points]
        if series:
            labels = spec.loss_label if spec and lines[0][0] == "loss" else (title, label)
            drawn.append(Panel(*labels, series, spec.step_name if spec else "steps"))
    return drawn


def plot_metrics(folder: Path, stage: str | None = None) -> Path | None:
    """Draw `loss.png` from `metrics.jsonl` and return its path; None if nothing was logged."""
    panels = panels_of(read_metrics(folder), stage)
    if not panels:
        return None

    def draw(*panes) -> None:
        for axes, panel in zip(panes, panels, strict=True):
            panel.draw(axes)

    return draw_png(Path(folder) / "loss.png", len(panels), draw)


def draw_png(path: Path, panes: int, draw: Callable, dark: bool = False) -> Path:
    """Draw panes side by side with `draw(*panes)`, add grids and legends, write a PNG, and return its path.

    Args:
        dark: also write `NAME-dark.png`, for pages that have a dark theme.
    """
    for theme in THEMES[: 1 + dark]:
        with mpl.rc_context(plot_style(theme)):
            figure, axes = canvas(panes)
            draw(*axes)
            for one in axes:
                one.grid(alpha=0.3)
                if one.get_legend() is None and one.get_legend_handles_labels()[0]:
                    one.legend(frameon=False)
            save(figure, path if theme == "light" else path.with_stem(f"{path.stem}-dark"))
    return path


def canvas(panes: int) -> tuple:
    """Return a figure with panes side by side; pyplot, which keeps state and may need a display, is not used."""
    figure = Figure(figsize=(4.8 * panes, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panes, squeeze=False)[0]


def save(figure, path: Path) -> Path:
    """Write a figure as PNG and return its path."""
    figure.savefig(path, dpi=120, metadata={"Software": None})
    return path
