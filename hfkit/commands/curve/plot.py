"""Plots the held-out error over the number of rows."""

from pathlib import Path

import numpy as np

from hfkit.metrics.power_law import PowerLaw
from hfkit.training.plots import draw_png


def plot_curve(folder: Path, result: dict) -> Path:
    """Draw `curve.png` and return its path: the error of each run with its interval, and the fitted law."""

    def draw(axes) -> None:
        points = result["points"]
        rows = [point["rows"] for point in points]
        spans = [[abs(point["value"] - point[end]) for point in points] for end in ("low", "high")]
        axes.errorbar(rows, [point["value"] for point in points], yerr=spans, fmt="o", capsize=3, label="runs")
        if law := result["law"]:
            line = np.geomspace(min(rows), 2 * max(rows), 50)
            fitted = PowerLaw(law["floor"], law["factor"], law["exponent"])
            axes.plot(line, fitted(line), "C1--", label=f"law: exponent {law['exponent']:.2f}")
        axes.set(title=f"{result['stage']}: held-out error", xlabel="rows trained on", ylabel=result["error"])
        axes.set_xscale("log")

    return draw_png(Path(folder) / "curve.png", 1, draw)
