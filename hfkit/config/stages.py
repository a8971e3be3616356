"""The dataclasses that a stage's YAML fills, one per stage; what they share is in `fields.py`.

Field names are those of Transformers' `TrainingArguments` and of TRL's configs, so what you know carries over.
The fields named here are the ones worth a line of `--help`; every other field of the trainer's own config is
accepted under its own name too (see `extra_field`), but for the few that `refused_field` explains.
Nothing heavy is imported here: `hfkit sft --help` must not wait for torch.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from hfkit.config.fields import (
    REFUSED,
    DataFields,
    DatasetEntry,
    ModelFields,
    OutputFields,
    SourceFields,
    TrainerFields,
)
from hfkit.core.hub_ids import split_revision


@dataclass(kw_only=True)
class TokenizerConfig(SourceFields, OutputFields):
    """Byte-level BPE with end-of-text, a pad token of its own, chat markers and a chat template."""

    vocab_size: int = field(default=32_000, metadata={"help": "size of the vocabulary, special tokens included"})
    min_frequency: int = field(default=2, metadata={"help": "a pair seen less often is not merged"})
    chat_template: str | None = field(default=None, metadata={"help": "Jinja file; default is hfkit's own"})
    model_max_length: int = field(default=2048, metadata={"help": "context length written into the tokenizer"})


@dataclass(kw_only=True)
class PretrainConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """Causal language modelling on documents packed into rows of `block_size` tokens."""

    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "default is model_name_or_path"})
    model_config: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "a new model, as {model_type: llama, hidden_size: 256, ...}, in place of a checkpoint"},
    )
    block_size: int = field(default=1024, metadata={"help": "tokens in a row"})
    packing: Literal["concatenate", "documents"] = field(
        default="concatenate",
        metadata={"help": "documents of a row one after another, or apart: none sees another"},
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "peak of the schedule"})
    sample_prompts: list[str] = field(
        default_factory=list, metadata={"help": "continued and printed at each evaluation"}
    )
    sample_length: int = field(default=40, metadata={"help": "tokens of a printed sample"})

    trainer_config = ("transformers", "TrainingArguments")

    @property
    def tokenizer_place(self) -> tuple[str | None, str]:
        """Path and revision of the tokenizer: by default those of the model."""
        given = self.tokenizer_name_or_path
        return (given, "main") if given else (self.model_name_or_path, self.model_revision)


@dataclass(kw_only=True)
class SFTConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """Supervised fine-tuning on replies: prompt/response, messages, or plain text."""

    max_length: int = field(default=1024, metadata={"help": "tokens of a row; longer rows are cut, and counted"})
    packing: bool = field(
        default=False, metadata={"help": "fill rows of max_length with several conversations; none sees another"}
    )

    trainer_config = ("trl", "SFTConfig")


@dataclass(kw_only=True)
class RewardConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """A scalar reward from pairs of replies, chosen and rejected, or from rankings of several."""

    max_length: int = field(default=1024, metadata={"help": "tokens of a row; longer pairs are dropped, and counted"})
    learning_rate: float = field(default=1e-4, metadata={"help": "peak of the schedule"})
    center_rewards_coefficient: float | None = field(
        default=None, metadata={"help": "pulls the mean reward to 0 (arXiv 2312.09244); 0.01 is common"}
    )
    score_margin: float = field(
        default=0.0, metadata={"help": "margin of two ranked replies: this times the difference of their scores"}
    )

    trainer_config = ("trl", "RewardConfig")


@dataclass(kw_only=True)
class PPOConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """PPO against a reward model or functions, with the KL anchored to the SFT model (`model_name_or_path`)."""

    reward_model_path: str | None = field(default=None, metadata={"help": "a reward model, folder or Hub id"})
    reward_model_revision: str = field(default="main", metadata={"help": "branch, tag or commit of it"})
    reward_functions: list[str] = field(
        default_factory=list, metadata={"help": "package.module:f, each f(prompts, replies, **columns) -> list[float]"}
    )
    reward_weights: list[float] = field(
        default_factory=list, metadata={"help": "of the reward model, then of each function; default all 1"}
    )
    reward_columns: list[str] = field(
        default_factory=list, metadata={"help": "columns of the prompts' data that functions get"}
    )
    min_reward_accuracy: float | None = field(
        default=None, metadata={"help": "the reward model's accuracy on held-out pairs, below which PPO does not start"}
    )
    normalize_rewards: bool = field(default=False, metadata={"help": "by their running mean and standard deviation"})
    reward_clip: float | None = field(default=None, metadata={"help": "scores are clipped to +- this"})
    max_prompt_length: int = field(default=512, metadata={"help": "longer prompts are dropped, and counted"})
    response_length: int = field(default=53, metadata={"help": "most tokens of a reply"})
    temperature: float = field(default=0.7, metadata={"help": "of the sampling, the only processor applied"})
    total_episodes: int | None = field(default=None, metadata={"help": "replies sampled; beats num_train_epochs"})
    learning_rate: float = field(default=3e-6, metadata={"help": "of the policy"})
    value_learning_rate: float | None = field(
        default=None, metadata={"help": "of the value model; default the policy's"}
    )
    value_warmup_steps: int = field(default=0, metadata={"help": "updates that train the value model alone"})
    lora_dropout: float = field(default=0.0, metadata={"help": "0: PPO's ratios want the same network twice"})
    num_ppo_epochs: int = field(default=4, metadata={"help": "passes over each batch of replies"})
    num_mini_batches: int = field(default=1, metadata={"help": "optimizer steps in one pass"})
    local_rollout_forward_batch_size: int = field(default=64, metadata={"help": "rows sampled at once"})
    merge_in_rollouts: bool = field(
        default=True,
        metadata={
            "help": "sample with the adapter merged into a copy of a float32 base; with bf16 into a bfloat16 copy of "
            "either, which is the policy to within rounding"
        },
    )
    kl_coef: float = field(default=0.05, metadata={"help": "weight of the per-token KL in the reward"})
    kl_estimator: Literal["k1", "k3"] = field(default="k1", metadata={"help": "joschu.net/blog/kl-approx.html"})
    kl_target: float | None = field(default=None, metadata={"help": "adapt kl_coef to this KL, in nats per reply"})
    kl_horizon: int = field(default=10_000, metadata={"help": "replies over which kl_coef adapts"})
    max_kl: float = field(default=20.0, metadata={"help": "stop when the mean KL of a reply passes this, in nats"})
    cliprange: float = field(default=0.2, metadata={"help": "clip of the policy ratio"})
    cliprange_value: float = field(default=0.2, metadata={"help": "clip of the value"})
    vf_coef: float = field(default=0.1, metadata={"help": "weight of the value loss"})
    entropy_coef: float = field(default=0.0, metadata={"help": "weight of an entropy bonus"})
    gamma: float = field(default=1.0, metadata={"help": "discount"})
    lam: float = field(default=0.95, metadata={"help": "lambda of GAE (arXiv 1506.02438)"})
    whiten_rewards: bool = field(default=False, metadata={"help": "divide rewards by their standard deviation"})
    missing_eos_penalty: float | None = field(default=None, metadata={"help": "taken off a reply that does not end"})
    ptx_coef: float = field(default=0.0, metadata={"help": "weight of a language modelling loss on ptx_datasets"})
    ptx_datasets: list[DatasetEntry] = field(
        default_factory=list, metadata={"help": "texts or conversations, as for SFT, that PPO should not forget"}
    )
    ptx_max_length: int = field(default=512, metadata={"help": "tokens of a row of ptx_datasets; longer rows are cut"})
    logging_steps: float = field(default=1, metadata={"help": "updates between two lines of metrics.jsonl"})
    sample_steps: int | None = field(default=None, metadata={"help": "updates between two samples in rollouts.jsonl"})
    load_best_model_at_end: bool = field(default=False, metadata={"help": "end with the best checkpoint"})
    metric_for_best_model: Literal["eval_reward", "eval_kl", "eval_entropy", "eval_length"] = field(
        default="eval_reward", metadata={"help": "the highest is best; of eval_kl the lowest"}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "evaluations without a better one, after which to stop"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.reward_model_path:
            path, revision = split_revision(self.reward_model_path, self.reward_model_revision)
            self.reward_model_path, self.reward_model_revision = path, revision

    # Most other fields of the trainer's config belong to a loop over batches of a data loader, so none is accepted.
    @classmethod
    def extra_field(cls, name: str) -> None:
        return None

    @classmethod
    def refused_field(cls, name: str) -> str | None:
        names = getattr(cls.trainer_config_class(), "__dataclass_fields__", {})
        return REFUSED.get(name) or ("PPO does not use it" if name in names else None)

    trainer_config = ("hfkit.rlhf", "PPOConfig")
