"""The arguments of PPOTrainer: TRL's PPOConfig, plus fields for what TRL's loop does not have."""

from dataclasses import dataclass, field

from trl.experimental.ppo import PPOConfig as TrlPPOConfig


@dataclass
class PPOArguments(TrlPPOConfig):
    """TRL's PPOConfig plus the fields of hfkit's loop. A YAML fills `hfkit.config.stages.PPOConfig` instead."""

    output_dir: str = field(default="trainer_output", metadata={"help": "folder for checkpoints and rollouts.jsonl"})
    value_learning_rate: float | None = field(default=None, metadata={"help": "learning rate of the value model"})
    value_warmup_steps: int = field(default=0, metadata={"help": "updates that train only the value model"})
    entropy_coef: float = field(default=0.0, metadata={"help": "weight of the entropy bonus"})
    kl_target: float | None = field(default=None, metadata={"help": "adapt kl_coef to this KL, in nats per reply"})
    kl_horizon: int = field(default=10_000, metadata={"help": "episodes over which kl_coef adapts"})
    max_kl: float = field(default=20.0, metadata={"help": "nats per reply above which training stops"})
    normalize_rewards: bool = field(default=False, metadata={"help": "by their running mean and standard deviation"})
    reward_clip: float | None = field(default=None, metadata={"help": "clip scores to +- this"})
    max_tokens_per_micro_batch: int | None = field(default=None, metadata={"help": "padding included"})
    micro_batches_by_length: bool = field(default=True, metadata={"help": "rows of like length share a forward pass"})
    rollout_engine: str = field(default="generate", metadata={"help": "generate, static or continuous"})
    merge_in_rollouts: bool = field(default=True, metadata={"help": "sample with the adapter merged into the base"})
    ptx_coef: float = field(default=0.0, metadata={"help": "weight of the language modeling loss"})
    metric_for_best_model: str = field(default="eval_reward", metadata={"help": "eval_reward, eval_kl, ..."})
    sample_steps: int | None = field(default=None, metadata={"help": "updates between two samples in rollouts.jsonl"})

    def __post_init__(self) -> None:
        self.greater_is_better = self.metric_for_best_model != "eval_kl"
        super().__post_init__()
