"""Plots of the quickstart's results."""

from pathlib import Path

from hfkit.training.plots import draw_png, tick_whole_steps


def plot_summary(folder: Path, summary: dict, metrics: dict[str, list[dict]]) -> Path:
    """Plot pretraining, the gold score of each model, and reward and KL over PPO; return the path of `summary.png`.

    `summary-dark.png` is the same plot for dark pages.
    """

    def draw(learning, gold, ppo) -> None:
        for key, legend in (("loss", "training"), ("eval_loss", "held-out")):
            points = [(row["step"], row[key]) for row in metrics["pretrain"] if key in row]
            if points:
                learning.plot(*zip(*points, strict=True), label=legend)
        tick_whole_steps(learning, [row["step"] for row in metrics["pretrain"]])
        learning.set(title="Pretraining", xlabel="optimizer steps", ylabel="loss (nats per token)")
        models = summary["models"]
        means = [model["gold"] for model in models.values()]
        lows, highs = zip(*(model["gold_interval"] for model in models.values()), strict=True)
        spans = [[abs(mean - end) for mean, end in zip(means, ends, strict=True)] for ends in (lows, highs)]
        look = {"color": "C0", "ecolor": "C4", "capsize": 6, "width": 0.6}
        bars = gold.bar(list(models), means, yerr=spans, **look)
        gold.bar_label(bars, [f"{mean:.2f}" for mean in means], padding=3)
        gold.set(title="Gold score of held-out questions", ylabel="mean, with 95% interval", ylim=(0, 1.05))
        rows = [row for row in metrics["ppo"] if "objective/scores" in row]
        steps = [row["step"] for row in rows]
        ppo.plot(steps, [row["objective/scores"] for row in rows], label="reward model's score")
        ppo.set(title="PPO", xlabel="updates", ylabel="mean reward")
        tick_whole_steps(ppo, steps)
        kl = ppo.twinx()
        kl.plot(steps, [row["objective/kl"] for row in rows], color="C1", linestyle="--", label="KL to SFT")
        kl.set(ylabel="KL (nats per response)")
        handles = [*ppo.get_lines(), *kl.get_lines()]
        ppo.legend(handles, [line.get_label() for line in handles], frameon=False)

    return draw_png(Path(folder) / "summary.png", 3, draw, dark=True)
