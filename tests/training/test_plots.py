"""Plots: PNGs in the light and the dark style, with the same curves."""

import json

import numpy as np
from matplotlib.image import imread

from hfkit.training.plot_style import colors, plot_style
from hfkit.training.plots import draw_png, plot_metrics


def corner(path) -> np.ndarray:
    """Return the color of the first pixel, in 8 bits."""
    return (imread(path)[0, 0, :3] * 255).round().astype(int)


def as_bytes(color: str) -> list[int]:
    return [int(color[index : index + 2], 16) for index in (1, 3, 5)]


def test_a_dark_plot_is_written_next_to_the_light_one(tmp_path):
    path = draw_png(tmp_path / "one.png", 2, lambda left, _: left.plot([0, 1], [1, 0], label="loss"), dark=True)
    assert path == tmp_path / "one.png"
    for theme, drawn in (("light", path), ("dark", tmp_path / "one-dark.png")):
        assert corner(drawn).tolist() == as_bytes(colors(theme)["paper"])
        pixels = (imread(drawn)[..., :3] * 255).round().astype(int)
        curve = as_bytes(plot_style(theme)["axes.prop_cycle"].by_key()["color"][0])
        assert (abs(pixels - curve).max(-1) <= 2).sum() > 50


def test_the_loss_plot_is_light_alone(tmp_path):
    rows = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_metrics(tmp_path, "sft") == tmp_path / "loss.png"
    assert [path.name for path in tmp_path.glob("*.png")] == ["loss.png"]
    assert plot_metrics(tmp_path / "nothing") is None
