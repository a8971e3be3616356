"""Probes a reward model with worthless responses, whose rewards PPO would exploit if they were high."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Column, Table

from hfkit.core.tables import make_console

MORE_KL = "raise the KL coefficient (kl_coef or beta), or add pairs"
REMEDIES = {
    "empty": f"the policy may return nothing; {MORE_KL} with an empty rejected response",
    "repeated": f"the policy may repeat itself; {MORE_KL} with a repetitive rejected response",
    "truncated": "it may stop mid-sentence; set missing_eos_penalty, or add pairs with a truncated rejected response",
    "off-topic": f"the reward hardly depends on the prompt; {MORE_KL} whose rejected response fits another prompt",
}
"""Kind of worthless response -> what PPO may learn if such responses get high rewards, and what to change."""


def make_worthless_replies(replies: Sequence[list[int]], stop_token_id: int) -> dict[str, list[list[int]]]:
    """Return real responses and worthless ones derived from them, by kind: `real` and the kinds of `REMEDIES`.

    A repeated response is the first half of the real one, twice; a truncated one is that half; an off-topic one is the
    real response to the next prompt.

    Args:
        replies: token ids of real responses to different prompts, two or more.
        stop_token_id: the token that ends a response.
    """
    contents = [reply[:-1] if reply[-1:] == [stop_token_id] else reply for reply in replies]
    halves = [reply[: (len(reply) + 1) // 2] for reply in contents]
    return {
        "real": [*replies],
        "empty": [[stop_token_id] for _ in replies],
        "repeated": [[*half, *half, stop_token_id] for half in halves],
        "truncated": [half or [stop_token_id] for half in halves],
        "off-topic": [*replies[1:], replies[0]],
    }


def run_probes(
    score: Callable[[list[list[int]]], ArrayLike], replies: Sequence[list[int]], stop_token_id: int
) -> dict[str, dict[str, float]]:
    """Return the mean reward of each kind of response, and `beats_real`: how often it exceeds the real response's.

    Args:
        score: returns the rewards of one response to each prompt, (N,).
        replies, stop_token_id: as for `make_worthless_replies`.
    """
    kinds = make_worthless_replies(replies, stop_token_id)
    rewards = {kind: np.asarray(score(made), dtype=float) for kind, made in kinds.items()}
    real = rewards.pop("real")
    metrics = {kind: {"mean": float(r.mean()), "beats_real": float((r > real).mean())} for kind, r in rewards.items()}
    return {"real": {"mean": float(real.mean())}, **metrics}


def probe_warnings(probes: dict[str, dict[str, float]]) -> list[str]:
    """Return a warning for each kind of response with rewards as high as the real ones: risk and remedy.

    Args:
        probes: as `run_probes` returns them; {} gives no warnings.
    """
    if not probes:
        return []
    real = probes["real"]["mean"]
    return [
        f"{kind} responses have a mean reward of {probes[kind]['mean']:.2f}, real ones {real:.2f}: {remedy}"
        for kind, remedy in REMEDIES.items()
        if probes[kind]["mean"] >= real and probes[kind]["beats_real"] >= 0.5
    ]


def print_probes(probes: dict[str, dict[str, float]], title: str) -> None:
    """Print the table of a probe."""
    table = Table("responses", *(Column(name, justify="right") for name in ("mean reward", "beats the real one")))
    table.title = title
    for kind, metrics in probes.items():
        share = f"{metrics['beats_real']:.0%}" if "beats_real" in metrics else ""
        table.add_row(kind, f"{metrics['mean']:.2f}", share)
    make_console().print(table)
