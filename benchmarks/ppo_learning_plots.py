"""python benchmarks/ppo_learning_plots.py

Draws docs/images/ppo_learning.png and docs/images/ppo_control.png from benchmarks/records/ppo_learning.json.
"""

from pathlib import Path

from hfkit.core.files import read_json_mapping
from hfkit.training.plots import canvas, save

ROOT = Path(__file__).parents[1]
COLOURS = ["#2f6db5", "#d1752c", "#4c9a5b"]
GREY = "#808080"


def draw_learning(record: dict, path: Path) -> Path:
    """Reward and KL over the episodes of the plain runs."""
    figure, (reward, kl) = canvas(2)
    for colour, one in zip(COLOURS, record["runs"]["plain"], strict=False):
        curve = one["curve"]
        reward.plot(curve["episode"], curve["reward"], color=colour, label=f"seed {one['seed']}")
        kl.plot(curve["episode"], curve["kl"], color=colour, label=f"seed {one['seed']}")
    start = record["runs"]["plain"][0]["metrics"]["eval_reward_sft"]
    reward.axhline(3 * start, color=GREY, linestyle="--", label="three times the start")
    reward.set(title="Reward", ylabel="words of joy in a response")
    kl.set(title="KL to the SFT model", ylabel="nats per response")
    return finish(figure, path)


def draw_control(record: dict, path: Path) -> Path:
    """The KL that is held to a target, and the loss on stories with and without ptx."""
    figure, (kl, loss) = canvas(2)
    target = record["settings"]["ways"]["target"]["kl_target"]
    for colour, one in zip(COLOURS, record["runs"]["target"], strict=False):
        kl.plot(one["curve"]["episode"], one["curve"]["kl"], color=colour, label=f"seed {one['seed']}")
    kl.axhline(target, color=GREY, linestyle="--", label=f"kl_target: {target:g}")
    kl.axhspan(0.75 * target, 1.25 * target, color=GREY, alpha=0.15, linewidth=0, label="25% to either side")
    kl.set(title="KL with a target", ylabel="nats per response")
    coef = record["settings"]["ways"]["ptx"]["ptx_coef"]
    for way, colour, legend in (("plain", COLOURS[1], "without ptx"), ("ptx", COLOURS[0], f"ptx_coef: {coef:g}")):
        for one in record["runs"][way]:
            curve = one["story_loss"]
            label = legend if one is record["runs"][way][0] else None
            loss.plot(curve["episode"], curve["loss"], color=colour, marker="o", markersize=3, label=label)
    loss.axhline(1.03 * record["story_loss_before"], color=GREY, linestyle="--", label="3% above the start")
    loss.set(title="Loss on held-out stories", ylabel="cross entropy (nats per token)")
    return finish(figure, path)


def finish(figure, path: Path) -> Path:
    """What all panes have in common."""
    for axes in figure.axes:
        axes.set_xlabel("episodes (sampled responses)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return save(figure, path)


if __name__ == "__main__":
    record = read_json_mapping(Path(__file__).parent / "records" / "ppo_learning.json")
    print(draw_learning(record, ROOT / "docs" / "images" / "ppo_learning.png"))
    print(draw_control(record, ROOT / "docs" / "images" / "ppo_control.png"))
