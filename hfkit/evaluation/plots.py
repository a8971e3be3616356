"""Plots the results of an arena."""

from pathlib import Path

from hfkit.training.plots import draw_png


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
