"""The curves of a run as a PNG: what one would rather look at than read."""

from pathlib import Path

from hfkit.callbacks import read_metrics

# (title, y label, [(key, legend)]) per panel; a panel without data is left out.
PANELS = [
    ("Loss", "cross entropy (nats per token)", [("loss", "training"), ("eval_loss", "held out")]),
    ("Bits per byte", "bits per byte", [("eval_bits_per_byte", "held out")]),
    ("Accuracy", "share of pairs ranked right", [("accuracy", "training"), ("eval_accuracy", "held out")]),
    ("Reward", "reward model's score", [("objective/scores", "sampled replies")]),
    ("KL to the SFT model", "nats per reply", [("objective/kl", "sampled replies")]),
]
TITLES = {"reward": ("Loss", "pairwise loss (nats)")}


def plot_metrics(folder: Path, stage: str | None = None) -> Path | None:
    """Draws `loss.png` from `metrics.jsonl`; returns its path, or None where nothing was logged."""
    rows = read_metrics(folder)
    panels = []
    for title, label, lines in PANELS:
        series = [(legend, [(row["step"], row[key]) for row in rows if key in row]) for key, legend in lines]
        series = [(legend, points) for legend, points in series if points]
        if series:
            panels.append((*TITLES.get(stage, (title, label)), series) if title == "Loss" else (title, label, series))
    if not panels:
        return None
    # Drawn on a canvas of its own: pyplot would keep state, and want a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, label, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for legend, points in series:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=legend, marker="o" if len(points) < 20 else None, markersize=3)
        axes.set(title=title, xlabel="optimizer steps", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path = Path(folder) / "loss.png"
    figure.savefig(path, dpi=120, metadata={"Software": None})
    return path
