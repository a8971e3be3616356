"""Figures of a report: each as a PNG file, and as SVG for the page, in the page's light and dark colors."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup, escape

from hfkit.commands.report.formatting import format_interval, format_number
from hfkit.training.plot_style import colors, plot_style
from hfkit.training.plots import canvas, save

LIGHT = colors("light")
GRID = 0.25  # opacity of grid lines
SIZE = (3.9, 3.1)  # inches; as wide as a phone, so text is not scaled down there


@dataclass
class PageFigure:
    """A plot as SVG, and the sentence below it."""

    svg: Markup
    note: str = ""


class FigureWriter:
    """Draws figures, and writes a PNG of each into `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def figure(self, name: str, title: str, alt: str, draw: Callable, note: str = "", size=SIZE) -> PageFigure:
        """Draw a plot with `draw(axes)`, write it as `NAME.png`, and return it as SVG, with the legend below.

        Args:
            alt: description of the plot, for screen readers.
            note: sentence to show below it.
            size: in inches.
        """
        with mpl.rc_context({**plot_style("light"), "svg.hashsalt": name}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # the PNG's font lacks a letter
            figure, (axes,) = canvas(1)
            figure.set_size_inches(size)
            draw(axes)
            axes.set_title(title)
            legend_below(figure)
            figure.patch.set_alpha(0)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
            figure.set_layout_engine("none")  # keep the layout
            figure.patch.set(alpha=1, facecolor="white")
            save(figure, self.folder / f"{name}.png")
        return PageFigure(themed_svg(stream.getvalue(), name, alt), note)

    def intervals(self, name: str, title: str, label: str, rows: list[tuple], note: str = "") -> PageFigure:
        """Draw a point with its 95% interval for each row (model, value, low, high); low None means no interval."""

        def draw(axes) -> None:
            for index, (_, value, low, high) in enumerate(rows):
                # the mean of equal values can be outside of their interval, by a rounding error
                spans = None if low is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
                axes.errorbar(value, index, xerr=spans, fmt="o", color=LIGHT["first"], capsize=5, linewidth=2)
                look = {"textcoords": "offset points", "ha": "center", "size": 8}
                axes.annotate(format_number(value), (value, index), (0, 8), **look)
            names = [row[0] for row in rows]
            axes.set(xlabel=label, yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.6))
            axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
            axes.margins(x=0.12)
            axes.grid(axis="x", alpha=GRID)

        values = "; ".join(f"{model} {format_interval(value, low, high)}" for model, value, low, high in rows)
        return self.figure(name, title, f"{title}, {label}: {values}", draw, note, (SIZE[0], 1.2 + 0.45 * len(rows)))

    def lines(self, name: str, title: str, xlabel: str, ylabel: str, series: dict[str, list[tuple]]) -> PageFigure:
        """Draw a line through points (x, y) for each model."""

        def draw(axes) -> None:
            for legend, points in series.items():
                axes.plot(*zip(*points, strict=True), label=legend, marker="o", markersize=4)
            axes.set(xlabel=xlabel, ylabel=ylabel)
            axes.grid(alpha=GRID)

        values = {model: [f"{format_number(y)} at {x:g}" for x, y in points] for model, points in series.items()}
        curves = "; ".join(f"{model} {', '.join(points)}" for model, points in values.items())
        return self.figure(name, title, f"{title}, {ylabel} by {xlabel}: {curves}", draw)


def legend_below(figure) -> None:
    """Put one legend for all axes below the figure, where it hides no curve."""
    handles = [handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]]
    for legend in filter(None, (axes.get_legend() for axes in figure.axes)):
        legend.remove()
    if handles:
        columns = 3 if sum(len(handle.get_label()) for handle in handles) < 30 else 2
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def themed_svg(svg: str, name: str, alt: str) -> Markup:
    """Return an SVG for the page: as wide as its column, with unique ids and the page's colors."""
    svg = svg[svg.index("<svg") :]
    for color, light in LIGHT.items():
        svg = svg.replace(light, f"var(--{color})")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    head, rest = svg.split(">", 1)
    width = float(re.search(r'width="([\d.]+)pt"', head)[1]) * 4 / 3  # CSS pixels
    box = re.search(r'viewBox="[^"]+"', head)[0]
    opening = f'<svg {box} style="max-width:{width:.0f}px" role="img" aria-label="{escape(alt)}">'
    return Markup(opening + rest)  # matplotlib has escaped the text in it
