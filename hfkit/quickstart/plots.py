"""Plots of the quickstart's results."""

from pathlib import Path

from hfkit.training.plots import canvas, save


def plot_summary(folder: Path, summary: dict, metrics: dict[str, list[dict]]) -> Path:
    """Plot pretraining, the gold score of each model, and reward and KL over PPO; return the path of `summary.png`."""
    figure, (learning, gold, ppo) = canvas(3)
    for key, legend in (("loss", "training"), ("eval_loss", "held out")):
        points = [(row["step"], row[key]) for row in metrics["pretrain"] if key in row]
        if points:
            learning.plot(*zip(*points, strict=True), label=legend)
    learning.set(title="Pretraining", xlabel="optimizer steps", ylabel="loss (nats per token)")
    learning.legend(frameon=False)
    names = list(summary["models"])
    means = [model["gold"] for model in summary["models"].values()]
    lows, highs = zip(*(model["gold_interval"] for model in summary["models"].values()), strict=True)
    spans = [[abs(mean - end) for mean, end in zip(means, ends, strict=True)] for ends in (lows, highs)]
    gold.bar(names, means, yerr=spans, capsize=6, color=["#b0b0b0", "#7aa6d8", "#2f6db5"])
    gold.set(title="Gold score on held-out questions", ylabel="mean, with 95% interval", ylim=(0, 1))
    rows = [row for row in metrics["ppo"] if "objective/scores" in row]
    steps = [row["step"] for row in rows]
    ppo.plot(steps, [row["objective/scores"] for row in rows], color="#2f6db5", label="reward model's score")
    ppo.set(title="PPO", xlabel="updates", ylabel="mean reward")
    kl = ppo.twinx()
    kl.plot(steps, [row["objective/kl"] for row in rows], color="#d1752c", label="KL to SFT")
    kl.set(ylabel="nats per response")
    handles = [*ppo.get_lines(), *kl.get_lines()]
    ppo.legend(handles, [line.get_label() for line in handles], frameon=False)
    for axes in (learning, gold, ppo):
        axes.grid(alpha=0.3)
    return save(figure, Path(folder) / "summary.png")
