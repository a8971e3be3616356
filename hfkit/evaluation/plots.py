"""Plots the results of an arena, of samples and of a bench."""

from pathlib import Path

from hfkit.training.plots import draw_png

MOST_PANES = 6
"""The most metrics that `bench.png` shows; `bench.json` has them all."""


def plot_arena(folder: Path, arena: dict) -> Path:
    """Draw `arena.png` and return its path: ratings with their intervals, entropy and self-BLEU over temperatures."""

    def draw(ratings, entropy, similarity) -> None:
        models = sorted(arena["models"], key=lambda model: model["rating"])
        values = [model["rating"] for model in models]
        spans = [[abs(model["rating"] - model[end]) for model in models] for end in ("low", "high")]
        ratings.errorbar(values, range(len(models)), xerr=spans, fmt="o", capsize=4)
        ratings.set(title="Ratings", xlabel="Elo scale, with 95% interval", ylim=(-0.5, len(models) - 0.5))
        ratings.set_yticks(range(len(models)), [model["name"] for model in models])
        for axes, key, title, label in (
            (entropy, "entropy", "Entropy", "nats per token"),
            (similarity, "self_bleu", "Similarity of responses", "self-BLEU of responses to one prompt"),
        ):
            for model in arena["models"]:
                points = [(row["temperature"], row[key]) for row in arena["diversity"] if row["model"] == model["name"]]
                axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=model["name"])
            axes.set(title=title, xlabel="temperature", ylabel=label)

    return draw_png(Path(folder) / "arena.png", 3, draw)


def plot_samples(folder: Path, result: dict) -> Path | None:
    """Draw `sample.png` and return its path: the score of the best of n, and the accuracy of a majority of n."""
    labels = {
        "best_of_n": ("Best of n", "score", "reward model's score"),
        "votes": ("Majority of n", "accuracy", "right"),
    }
    drawn = {key: label for key, label in labels.items() if len(result[key]) > 1}
    if not drawn:
        return None

    def draw(*panes) -> None:
        for axes, (key, (title, column, label)) in zip(panes, drawn.items(), strict=True):
            sizes, values, lows, highs = zip(
                *((row["n"], row[column], row["low"], row["high"]) for row in result[key]), strict=True
            )
            axes.plot(sizes, values, marker="o", markersize=3)
            axes.fill_between(sizes, lows, highs, alpha=0.2)
            axes.set(title=title, xlabel="n (samples per prompt)", ylabel=f"{label}, with 95% interval", xscale="log")
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()

    return draw_png(Path(folder) / "sample.png", len(drawn), draw)


def plot_bench(folder: Path, result: dict) -> Path | None:
    """Draw `bench.png` and return its path: each metric over the models, in order; at most `MOST_PANES` metrics."""
    names = [model["name"] for model in result["models"]]
    series = {
        (task, metric): [result["results"][name][task]["metrics"].get(metric) for name in names]
        for task, of_task in result["results"][names[0]].items()
        for metric in of_task["metrics"]
    }
    series = {key: points for key, points in [*series.items()][:MOST_PANES] if None not in points}
    if not series:
        return None

    def draw(*panes) -> None:
        for axes, ((task, metric), points) in zip(panes, series.items(), strict=True):
            values = [point["value"] for point in points]
            spans = [
                [0.0 if point[end] is None else abs(point["value"] - point[end]) for point in points]
                for end in ("low", "high")
            ]
            axes.errorbar(range(len(names)), values, yerr=spans, fmt="o", capsize=4)
            axes.set(title=task, ylabel=f"{metric}, with 95% interval", xlim=(-0.5, len(names) - 0.5))
            axes.set_xticks(range(len(names)), names)

    return draw_png(Path(folder) / "bench.png", len(series), draw)
