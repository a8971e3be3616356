"""The config dataclasses that the stages' YAMLs fill, one per stage; shared fields are in `fields.py`.

Fields are named as in Transformers' `TrainingArguments` and TRL's configs. `--help` lists the fields defined here; a
YAML may also set all other fields of the trainer's config (see `extra_field`) except those that `refused_field` names.
This module imports no heavy library: `hfkit sft --help` must not wait for torch.
"""

from dataclasses import dataclass
from typing import Any, Literal

from hfkit.config.fields import (
    DataFields,
    DatasetEntry,
    ModelFields,
    OpenLength,
    OutputFields,
    SourceFields,
    arg,
)
from hfkit.config.learning_rates import DPO_RATES, GROUP_RATES, PPO_RATES, PRETRAIN_RATES, REWARD_RATES
from hfkit.config.online import OnlineConfig
from hfkit.config.trainer_fields import TrainerFields


@dataclass(kw_only=True)
class TokenizerConfig(SourceFields, OutputFields):
    """Byte-level BPE with an end-of-text token, a pad token, chat markers and a chat template."""

    vocab_size: int = arg(32_000, help="number of tokens in the vocabulary, including special tokens")
    min_frequency: int = arg(2, help="how often a pair of tokens must occur to be merged")
    chat_template: str | None = arg(
        None,
        help="chat template: Jinja file, or chatml, gemma, llama3, mistral, qwen3 or zephyr, with its special tokens; "
        "none: hfkit's template",
    )
    model_max_length: int = arg(2048, help="maximum context length in tokens, saved with the tokenizer")


@dataclass(kw_only=True)
class PretrainConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """Causal language modeling on documents packed into rows of `block_size` tokens."""

    tokenizer_name_or_path: str | None = arg(None, help="tokenizer: folder or Hub id; none: that of model_name_or_path")
    model_config: dict[str, Any] = arg(
        factory=dict,
        help="config of a new model, instead of model_name_or_path: {model_type: llama, hidden_size: 256, ...}",
    )
    block_size: int = arg(OpenLength(1024), help="tokens per row; the default is lowered to the context of the model")
    packing: Literal["concatenate", "documents"] = arg(
        "concatenate", help="whether documents in one row attend to each other: concatenate: yes, documents: no"
    )
    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {PRETRAIN_RATES}")
    sample_prompts: list[str] = arg(
        factory=list, help="texts that the model continues at each evaluation; the samples are printed"
    )
    sample_length: int = arg(40, help="tokens per printed sample")

    trainer_config = ("transformers", "TrainingArguments")
    learning_rates = PRETRAIN_RATES

    @property
    def tokenizer_source(self) -> tuple[str | None, str]:
        """The path and revision of the tokenizer; by default those of the model."""
        given = self.tokenizer_name_or_path
        return (given, "main") if given else (self.model_name_or_path, self.model_revision)


@dataclass(kw_only=True)
class SFTConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """Supervised fine-tuning on prompt and response, messages, or plain text."""

    max_length: int = arg(
        OpenLength(1024),
        help="maximum tokens per row; longer rows are truncated and counted; the default is at most the context",
        remedy="rows always have a limit: set at most the model's context",
    )
    packing: bool = arg(
        False, help="pack conversations into rows of max_length tokens; they do not attend to each other"
    )

    trainer_config = ("trl", "SFTConfig")


DROPOUT_OF_PAIRS = "dropout probability on the adapter's input; applies only with disable_dropout: false"


@dataclass(kw_only=True)
class RewardConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """A scalar reward learned from chosen and rejected responses, or from rankings of several."""

    max_length: int = arg(
        OpenLength(1024),
        help="maximum tokens per row; longer rows are dropped and counted; the default is at most the context",
        remedy="rows always have a limit: set at most the model's context",
    )
    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {REWARD_RATES}")
    lora_dropout: float = arg(0.0, help=DROPOUT_OF_PAIRS)
    center_rewards_coefficient: float | None = arg(
        None, help="weight of a loss that centers rewards at 0 (arXiv 2312.09244), such as 0.01; none: no such loss"
    )
    score_margin: float = arg(
        0.0, help="margin in the loss of two scored responses: this times the difference of their scores"
    )

    trainer_config = ("trl", "RewardConfig")
    refuses = ("reward", "all")
    learning_rates = REWARD_RATES


OF_THE_BATCH = ("aot", "aot_unpaired", "sft")
"""Losses of DPO that are not a mean over pairs: TRL sorts those of a batch, or averages over its tokens."""


@dataclass(kw_only=True)
class EvalPromptFields:
    """How the policy responds to held-out prompts after DPO; arguments of the trainer too."""

    response_length: int = arg(128, help="maximum tokens per response to one of the eval_prompts")
    temperature: float = arg(0.7, help="sampling temperature of the responses to the eval_prompts")


@dataclass(kw_only=True)
class DPOConfig(EvalPromptFields, ModelFields, DataFields, TrainerFields, OutputFields):
    """Direct preference optimization on pairs or rankings; the SFT model (`model_name_or_path`) is the reference."""

    max_length: int = arg(
        OpenLength(1024),
        help="maximum tokens per row; longer rows are dropped and counted; the default is at most the context",
        remedy="rows always have a limit: set at most the model's context",
    )
    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {DPO_RATES}")
    lora_dropout: float = arg(0.0, help=DROPOUT_OF_PAIRS)
    beta: float = arg(0.1, help="strength of the KL constraint to the reference; tau of IPO")
    loss_type: str | list[str] = arg(
        factory=lambda: ["sigmoid"], help="TRL's losses, such as sigmoid or ipo; several are summed with loss_weights"
    )
    label_smoothing: float = arg(0.0, help="assumed share of wrong labels, for the losses robust, exo_pair and aot")
    eval_prompts: int = arg(64, help="held-out prompts that SFT model and policy respond to after training; 0: none")

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]

    trainer_config = ("hfkit.rlhf", "DPOArguments")
    refuses = ("dpo", "all")
    learning_rates = DPO_RATES


@dataclass(kw_only=True)
class PPOFields:
    """The losses of PPO and the steps that they take; arguments of the trainer too."""

    normalize_rewards: bool = arg(False, help="normalize rewards by their running mean and standard deviation")
    whiten_rewards: bool = arg(
        False, help="scale the rewards of tokens to a standard deviation of 1 in the batch, around their mean"
    )
    total_episodes: int | None = arg(
        None, help="number of responses to sample in all; overrides num_train_epochs; none: by num_train_epochs"
    )
    value_learning_rate: float | None = arg(None, help="learning rate of the value model; none: learning_rate")
    value_warmup_steps: int = arg(0, help="number of initial updates that train only the value model")
    num_ppo_epochs: int = arg(4, help="passes over each batch of responses")
    num_mini_batches: int = arg(1, help="optimizer steps per pass over a batch of responses")
    kl_coef: float = arg(0.05, help="weight of the KL penalty per token in the reward")
    kl_estimator: Literal["k1", "k3"] = arg(
        "k1", help="estimator of the KL in the penalty, see joschu.net/blog/kl-approx.html"
    )
    kl_target: float | None = arg(
        None, help="adapt kl_coef to reach this KL, in nats per response; none: kl_coef is fixed"
    )
    kl_horizon: int = arg(10_000, help="number of responses over which kl_coef adapts to kl_target")
    cliprange: float = arg(0.2, help="clip range of the policy ratio")
    cliprange_value: float = arg(0.2, help="clip range of the value function")
    vf_coef: float = arg(0.1, help="weight of the value loss")
    entropy_coef: float = arg(0.0, help="weight of an entropy bonus")
    gamma: float = arg(1.0, help="discount factor")
    lam: float = arg(0.95, help="lambda of GAE (arXiv 1506.02438)")
    ptx_coef: float = arg(0.0, help="weight of the language modeling loss on ptx_datasets")


PPO_READS = (
    *("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "lr_scheduler_kwargs"),
    *("greater_is_better", "eval_on_start", "eval_delay", "logging_first_step"),
    *("use_cpu", "tf32", "ddp_backend", "ddp_timeout"),
)
"""Further fields of `TrainingArguments` that PPO reads; most others concern a loop over a data loader's batches."""


@dataclass(kw_only=True)
class PPOConfig(PPOFields, OnlineConfig):
    """PPO with a reward model or reward functions; the SFT model (`model_name_or_path`) is the KL reference."""

    learning_rate: float | None = arg(None, help=f"learning rate of the policy; none: {PPO_RATES}")
    max_steps: int = arg(-1, help="number of updates; overrides total_episodes and num_train_epochs if above 0")
    warmup_steps: float = arg(0, help="updates of linear warm-up; below 1: share of all updates")
    gradient_accumulation_steps: int = arg(
        1, help="forward passes per batch of responses; each optimizer step takes num_mini_batches times fewer"
    )
    ptx_datasets: list[DatasetEntry] = arg(factory=list, help="rows as for SFT; ptx_coef adds their loss")
    ptx_max_length: int = arg(512, help="maximum tokens per row of ptx_datasets; longer rows are truncated")

    @classmethod
    def extra_field(cls, name: str) -> Any:
        return super().extra_field(name) if name in PPO_READS else None

    @classmethod
    def refused_field(cls, name: str) -> str | None:
        names = {*getattr(cls.trainer_config_class(), "__dataclass_fields__", ())} - {*PPO_READS}
        return super().refused_field(name) or ("PPO does not use it: remove it" if name in names else None)

    trainer_config = ("hfkit.rlhf", "PPOArguments")
    learning_rates = PPO_RATES


@dataclass(kw_only=True)
class GroupConfig(OnlineConfig):
    """The shared part of GRPO and RLOO: they compare the rewards of several responses to each prompt."""

    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {GROUP_RATES}")
    num_generations: int = arg(8, help="number of responses to each prompt, whose rewards are compared")
    num_iterations: int = arg(1, help="passes over each batch of responses")
    epsilon: float = arg(0.2, help="clip range of the policy ratio: 1 - epsilon to 1 + epsilon")
    epsilon_high: float | None = arg(
        None, help="clip range of the policy ratio above 1 (arXiv 2503.14476); none: epsilon"
    )
    mask_truncated_completions: bool = arg(False, help="leave responses without a stop token out of the loss")

    learning_rates = GROUP_RATES
    refuses = ("groups", "all")


@dataclass(kw_only=True)
class GRPOConfig(GroupConfig):
    """GRPO with a reward model or reward functions; the SFT model (`model_name_or_path`) is the KL reference."""

    beta: float = arg(0.04, help="weight of the KL term in the loss; 0: training does not measure the KL")
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = arg(
        "dapo", help="TRL's loss, which sets how tokens of a batch are averaged and how ratios are clipped"
    )
    scale_rewards: Literal["group", "batch", "none"] = arg(
        "group",
        help="divide advantages by the standard deviation of the rewards of a prompt (group) or of the batch",
        means={True: "group", False: "none"},
    )

    trainer_config = ("hfkit.rlhf", "GRPOArguments")


@dataclass(kw_only=True)
class RLOOConfig(GroupConfig):
    """RLOO with a reward model or reward functions; the SFT model (`model_name_or_path`) is the KL reference."""

    beta: float = arg(0.05, help="weight of the KL penalty in the reward; 0: training does not measure the KL")
    normalize_advantages: bool = arg(
        False, help="normalize the advantages of a batch to mean 0 and standard deviation 1"
    )

    trainer_config = ("hfkit.rlhf", "RLOOArguments")
