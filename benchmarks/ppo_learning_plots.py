"""python benchmarks/ppo_learning_plots.py

Draws docs/images/ppo_learning.png and docs/images/ppo_control.png from benchmarks/records/ppo_learning.json.
"""

from pathlib import Path

from hfkit.core.files import read_json_mapping
from hfkit.training.plots import draw_png

ROOT = Path(__file__).parents[1]
GREY = "C4"  # of the plots' style
STYLES = ("C0-", "C1--", "C2-.")
EPISODES = "episodes (sampled responses)"


def draw_learning(record: dict, path: Path) -> Path:
    """Draw reward and KL over the episodes of the plain runs."""

    def draw(reward, kl) -> None:
        for style, one in zip(STYLES, record["runs"]["plain"], strict=False):
            curve = one["curve"]
            reward.plot(curve["episode"], curve["reward"], style, label=f"seed {one['seed']}")
            kl.plot(curve["episode"], curve["kl"], style, label=f"seed {one['seed']}")
        start = record["runs"]["plain"][0]["metrics"]["eval_reward_sft"]
        reward.axhline(3 * start, color=GREY, linestyle=":", label="three times the start")
        reward.set(title="Reward", xlabel=EPISODES, ylabel="words of joy in a response")
        kl.set(title="KL to the SFT model", xlabel=EPISODES, ylabel="nats per response")

    return draw_png(path, 2, draw, dark=True)


def draw_control(record: dict, path: Path) -> Path:
    """Draw the KL with a target, and the loss on stories with and without ptx."""
    settings = record["settings"]["ways"]
    target, coef = settings["target"]["kl_target"], settings["ptx"]["ptx_coef"]

    def draw(kl, loss) -> None:
        for style, one in zip(STYLES, record["runs"]["target"], strict=False):
            kl.plot(one["curve"]["episode"], one["curve"]["kl"], style, label=f"seed {one['seed']}")
        kl.axhline(target, color=GREY, linestyle=":", label=f"kl_target: {target:g}")
        kl.axhspan(0.75 * target, 1.25 * target, color=GREY, alpha=0.15, linewidth=0, label="within 25%")
        kl.set(title="KL with a target", xlabel=EPISODES, ylabel="nats per response")
        for way, style, legend in (("plain", "C1--", "without ptx"), ("ptx", "C0-", f"ptx_coef: {coef:g}")):
            for index, one in enumerate(record["runs"][way]):
                curve = one["story_loss"]
                label = None if index else legend
                loss.plot(curve["episode"], curve["loss"], style, marker="o", markersize=3, label=label)
        loss.axhline(1.03 * record["story_loss_before"], color=GREY, linestyle=":", label="3% above the start")
        loss.set(title="Loss on held-out stories", xlabel=EPISODES, ylabel="cross entropy (nats per token)")

    return draw_png(path, 2, draw, dark=True)


if __name__ == "__main__":
    record = read_json_mapping(Path(__file__).parent / "records" / "ppo_learning.json")
    print(draw_learning(record, ROOT / "docs" / "images" / "ppo_learning.png"))
    print(draw_control(record, ROOT / "docs" / "images" / "ppo_control.png"))
