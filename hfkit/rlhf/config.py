"""The trainer's config: trl's, with the fields that its own loop has no use for."""

from dataclasses import dataclass, field

from trl.experimental.ppo import PPOConfig as TrlPPOConfig


@dataclass
class PPOConfig(TrlPPOConfig):
    """trl's PPOConfig and what hfkit's loop adds to it; `hfkit.config.stages.PPOConfig` is what a YAML fills."""

    value_learning_rate: float | None = field(default=None, metadata={"help": "of the value model"})
    value_warmup_steps: int = field(default=0, metadata={"help": "updates that train the value model alone"})
    entropy_coef: float = field(default=0.0, metadata={"help": "weight of the entropy bonus"})
    kl_target: float | None = field(default=None, metadata={"help": "nats per reply that kl_coef is adapted to"})
    kl_horizon: int = field(default=10_000, metadata={"help": "episodes over which kl_coef adapts"})
    max_kl: float = field(default=20.0, metadata={"help": "nats per reply past which training stops"})
    normalize_rewards: bool = field(default=False, metadata={"help": "by running mean and std"})
    reward_clip: float | None = field(default=None, metadata={"help": "scores are clipped to +- this"})
    merge_in_rollouts: bool = field(default=True, metadata={"help": "the adapter into a copy of the base"})
    ptx_coef: float = field(default=0.0, metadata={"help": "weight of the language modelling loss"})
    metric_for_best_model: str = field(default="eval_reward", metadata={"help": "eval_reward, eval_kl, ..."})
    sample_steps: int | None = field(default=None, metadata={"help": "updates between two tables of replies"})

    def __post_init__(self):
        self.greater_is_better = self.metric_for_best_model != "eval_kl"
        super().__post_init__()
