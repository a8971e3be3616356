"""The colors and matplotlib settings that all plots share, light and dark."""

from pathlib import Path

import matplotlib as mpl
import yaml

_STYLE = yaml.safe_load((Path(__file__).parent / "plot_style.yaml").read_text(encoding="utf-8"))
PALETTE = _STYLE["palette"]
"""The light and the dark color of each name."""
SERIES = _STYLE["series"]
"""The names of the curves' colors, in the order in which a plot uses them."""
THEMES = ("light", "dark")


def colors(theme: str = "light") -> dict[str, str]:
    """Return the color of each name of the palette."""
    return {name: pair[THEMES.index(theme)] for name, pair in PALETTE.items()}


def plot_style(theme: str = "light") -> dict:
    """Return the rcParams of a plot, for `matplotlib.rc_context`."""
    color = colors(theme)
    style = {key: color.get(value, value) for key, value in _STYLE["plots"].items()}
    return {**style, "axes.prop_cycle": mpl.cycler(color=[color[name] for name in SERIES])}
