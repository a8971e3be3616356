"""Where PPO must stop: a policy far from its reference has found what the reward model does not know."""

from transformers import TrainerCallback


class KLLimitReached(Exception):
    """The KL to the reference passed the limit."""


class KLLimit(TrainerCallback):
    """Stops PPO when the mean KL of a batch's replies passes `limit` nats.

    It raises, since trl's loop reads no stop flag.
    """

    def __init__(self, limit: float):
        self.limit = limit

    def on_log(self, args, state, control, logs=None, **kwargs):
        kl = logs.get("objective/kl", 0.0)
        if kl > self.limit:
            raise KLLimitReached(
                f"stopped at step {state.global_step}: KL {kl:.2f} passed max_kl={self.limit}. The policy may be "
                "gaming the reward model: raise kl_coef or lower learning_rate"
            )
