"""What a reward model gives to replies that are worth nothing: where that is much, PPO finds it out."""

from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

# Kind of reply -> what a reward model that likes it makes of PPO, and what to change.
CURES = {
    "empty": "PPO may end replies at once; raise kl_coef, or add pairs whose rejected reply is empty",
    "repeated": "PPO may repeat itself; raise kl_coef, or add pairs whose rejected reply repeats itself",
    "truncated": "PPO may stop in mid-sentence; set missing_eos_penalty, or add pairs whose rejected reply is cut off",
    "off-topic": "the reward hardly depends on the prompt; raise kl_coef, or add pairs whose rejected reply answers "
    "another prompt",
}


def spoilt(replies: Sequence[list[int]], ends: int) -> dict[str, list[list[int]]]:
    """Real replies, and worthless ones made of them, by kind: `real` and those of `CURES`.

    A repeated reply is the first half of the real one, twice, a truncated one is that half, and an off-topic one is the
    real reply to the next prompt.

    Args:
        replies: token ids of real replies to different prompts, two or more.
        ends: the token that ends a reply.
    """
    said = [reply[:-1] if reply[-1:] == [ends] else reply for reply in replies]
    halves = [reply[: (len(reply) + 1) // 2] for reply in said]
    return {
        "real": [*replies],
        "empty": [[ends] for _ in replies],
        "repeated": [[*half, *half, ends] for half in halves],
        "truncated": [half or [ends] for half in halves],
        "off-topic": [*replies[1:], replies[0]],
    }


def probe(
    score: Callable[[list[list[int]]], Sequence[float]], replies: Sequence[list[int]], ends: int
) -> dict[str, dict[str, float]]:
    """Mean reward of each kind of reply, and `beats_real`: how often it gets more than the real reply to its prompt.

    Args:
        score: rewards of a reply to each prompt.
        replies, ends: as for `spoilt`.
    """
    rewards = {kind: np.asarray(score(given), dtype=float) for kind, given in spoilt(replies, ends).items()}
    real = rewards.pop("real")
    figures = {kind: {"mean": float(r.mean()), "beats_real": float((r > real).mean())} for kind, r in rewards.items()}
    return {"real": {"mean": float(real.mean())}, **figures}


def signs(probes: dict[str, dict[str, float]]) -> list[str]:
    """What is rewarded as the real replies are, or more: what was seen, the likely outcome, the key to change.

    Args:
        probes: as `probe` gives them; {} has no signs.
    """
    if not probes:
        return []
    real = probes["real"]["mean"]
    return [
        f"{kind} replies are rewarded with {probes[kind]['mean']:.2f}, and real ones with {real:.2f}: {cure}"
        for kind, cure in CURES.items()
        if probes[kind]["mean"] >= real and probes[kind]["beats_real"] >= 0.5
    ]


def print_probes(probes: dict[str, dict[str, float]], title: str) -> None:
    """The table of a probe."""
    table = Table(title=title)
    for column in ("replies", "mean reward", "beat the real one"):
        table.add_column(column, justify="left" if column == "replies" else "right")
    for kind, figures in probes.items():
        share = f"{figures['beats_real']:.0%}" if "beats_real" in figures else ""
        table.add_row(kind, f"{figures['mean']:.2f}", share)
    Console().print(table)
