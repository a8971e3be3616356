"""Signs that PPO goes wrong: each says what was seen, the likely cause, and the key to change."""

import math
from dataclasses import dataclass, field

WINDOW = 10
"""Updates whose mean is the start that later ones are held against."""


VITAL = ("objective/kl", "objective/scores", "loss/policy_avg", "loss/value_avg", "policy/grad_norm")
"""What cannot be gone on without."""


@dataclass
class Watch:
    """Looks at the metrics of each update; tells each sign once.

    Args:
        max_kl: nats per reply, past which training stops.
    """

    max_kl: float
    history: list[dict[str, float]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def stop(self, metrics: dict[str, float]) -> str | None:
        """Why training must stop now, or None."""
        kl = metrics["objective/kl"]
        wrong = [name for name in VITAL if not math.isfinite(metrics[name])]
        if wrong:
            return (
                f"{', '.join(wrong)} no longer a number: lower learning_rate, train in float32, or set "
                "attn_implementation: eager"
            )
        if kl > self.max_kl:
            return (
                f"KL {kl:.2f} passed max_kl={self.max_kl}. The policy may be gaming the reward model: raise kl_coef or "
                "lower learning_rate"
            )
        return None

    def signs(self, metrics: dict[str, float]) -> list[str]:
        """What is seen for the first time in the last `WINDOW` updates, once they are others than the first."""
        self.history.append(metrics)
        if len(self.history) > 2 * WINDOW:  # the first and the last are all that is compared
            del self.history[WINDOW]
        if len(self.history) < 2 * WINDOW:
            return []
        first = self.mean(self.history[:WINDOW])
        last = self.mean(self.history[-WINDOW:])
        seen = {}
        if last["objective/entropy"] < 0.2 * first["objective/entropy"]:
            seen["entropy"] = (
                f"entropy fell from {first['objective/entropy']:.2f} to {last['objective/entropy']:.2f} nats per token:"
                " replies become all alike; raise kl_coef or entropy_coef, or lower learning_rate"
            )
        better = last["objective/scores"] > first["objective/scores"]
        if better and last["val/reply_length"] > 2 * first["val/reply_length"]:
            seen["length"] = (
                f"reward rises while replies grow from {first['val/reply_length']:.0f} to "
                f"{last['val/reply_length']:.0f} tokens: the reward model may like length; set missing_eos_penalty "
                "or a smaller response_length"
            )
        if better and last["val/repetition"] > first["val/repetition"] + 0.25:
            seen["repetition"] = (
                f"reward rises while {last['val/repetition']:.0%} of the replies' three-token runs repeat: the reward "
                "model is being gamed; raise kl_coef"
            )
        if last["val/explained_variance"] < 0:
            seen["value"] = (
                f"the value model explains less than a constant would ({last['val/explained_variance']:.2f}): raise "
                "vf_coef or value_learning_rate, or give it value_warmup_steps"
            )
        new = [text for sign, text in seen.items() if sign not in self.told]
        self.told |= set(seen)
        return new

    @staticmethod
    def mean(rows: list[dict[str, float]]) -> dict[str, float]:
        """Mean of each figure."""
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def state_dict(self) -> dict:
        return {"history": self.history, "told": sorted(self.told)}

    def load_state_dict(self, state: dict) -> None:
        self.history, self.told = state["history"], set(state["told"])


def repetition(reply: list[int]) -> float:
    """Share of the three-token runs of a reply that were there before."""
    runs = [tuple(reply[place : place + 3]) for place in range(len(reply) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
