"""The config dataclasses that the stages' YAMLs fill, one per stage; shared fields are in `fields.py`.

Fields have the names of Transformers' `TrainingArguments` and of TRL's configs. `--help` lists the fields named here; a
YAML may also set every other field of the trainer's config (see `extra_field`) except those in `refused_field`.
Nothing heavy is imported here: `hfkit sft --help` must not wait for torch.
"""

from dataclasses import dataclass
from typing import Any, Literal

from hfkit.config.fields import (
    ENGINE_HELP,
    REFUSED,
    DataFields,
    DatasetEntry,
    ModelFields,
    OutputFields,
    PPOEngineName,
    SourceFields,
    TrainerFields,
    arg,
)
from hfkit.config.learning_rates import PPO_RATES, PRETRAIN_RATES, REWARD_RATES
from hfkit.core.hub_ids import split_revision


@dataclass(kw_only=True)
class TokenizerConfig(SourceFields, OutputFields):
    """Byte-level BPE with an end-of-text token, a pad token, chat markers and a chat template."""

    vocab_size: int = arg(32_000, help="size of the vocabulary, including special tokens")
    min_frequency: int = arg(2, help="minimum frequency of a pair to be merged")
    chat_template: str | None = arg(
        None,
        help="Jinja file, or chatml, gemma, llama3, mistral, qwen3 or zephyr, with its tokens; none: hfkit's template",
    )
    model_max_length: int = arg(2048, help="maximum context length, saved with the tokenizer")


@dataclass(kw_only=True)
class PretrainConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """Causal language modeling on documents packed into rows of `block_size` tokens."""

    tokenizer_name_or_path: str | None = arg(None, help="folder or Hub id of the tokenizer; none: model_name_or_path")
    model_config: dict[str, Any] = arg(
        factory=dict,
        help="config of a new model: {model_type: llama, hidden_size: 256, ...}; replaces model_name_or_path",
    )
    block_size: int = arg(1024, help="tokens per row")
    packing: Literal["concatenate", "documents"] = arg(
        "concatenate", help="whether documents in a row attend to each other: concatenate yes, documents no"
    )
    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {PRETRAIN_RATES}")
    sample_prompts: list[str] = arg(factory=list, help="texts to continue and print at each evaluation")
    sample_length: int = arg(40, help="new tokens per printed sample")

    trainer_config = ("transformers", "TrainingArguments")
    learning_rates = PRETRAIN_RATES

    @property
    def tokenizer_source(self) -> tuple[str | None, str]:
        """Path and revision of the tokenizer; by default those of the model."""
        given = self.tokenizer_name_or_path
        return (given, "main") if given else (self.model_name_or_path, self.model_revision)


@dataclass(kw_only=True)
class SFTConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """Supervised fine-tuning on prompt and response, messages, or plain text."""

    max_length: int = arg(1024, help="maximum tokens per row; longer rows are truncated and counted")
    packing: bool = arg(False, help="pack conversations into rows of max_length; they do not attend to each other")

    trainer_config = ("trl", "SFTConfig")


@dataclass(kw_only=True)
class RewardConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """A scalar reward learned from chosen and rejected responses, or from rankings of several."""

    max_length: int = arg(1024, help="maximum tokens per conversation; longer rows are dropped and counted")
    learning_rate: float | None = arg(None, help=f"peak of the learning rate schedule; none: {REWARD_RATES}")
    center_rewards_coefficient: float | None = arg(
        None, help="weight of a loss that centers rewards at 0 (arXiv 2312.09244), such as 0.01"
    )
    score_margin: float = arg(0.0, help="margin of two ranked responses: this times the difference of their scores")

    trainer_config = ("trl", "RewardConfig")
    learning_rates = REWARD_RATES


@dataclass(kw_only=True)
class PPOConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """PPO with a reward model or reward functions; the SFT model (`model_name_or_path`) is the KL reference."""

    reward_model_path: str | None = arg(None, help="reward model: folder or Hub id")
    reward_model_revision: str = arg("main", help="branch, tag or commit of a Hub reward model")
    reward_functions: list[str] = arg(
        factory=list, help="package.module:f or FILE.py:f, each f(prompts, replies, **columns) -> list[float]"
    )
    reward_weights: list[float] = arg(factory=list, help="for the reward model, then each function; empty: 1 each")
    reward_columns: list[str] = arg(factory=list, help="columns of the prompt data to pass to reward functions")
    min_reward_accuracy: float | None = arg(None, help="fail if the reward model's held-out accuracy is below this")
    normalize_rewards: bool = arg(False, help="normalize rewards by their running mean and standard deviation")
    reward_clip: float | None = arg(None, help="clip scores to [-reward_clip, reward_clip]")
    max_prompt_length: int = arg(512, help="maximum tokens per prompt; longer prompts are dropped and counted")
    response_length: int = arg(53, help="maximum tokens per response")
    temperature: float = arg(0.7, help="sampling temperature; no other sampling option applies")
    total_episodes: int | None = arg(None, help="number of responses to sample; overrides num_train_epochs")
    learning_rate: float | None = arg(None, help=f"learning rate of the policy; none: {PPO_RATES}")
    value_learning_rate: float | None = arg(None, help="learning rate of the value model; none: learning_rate")
    value_warmup_steps: int = arg(0, help="number of first updates that train only the value model")
    lora_dropout: float = arg(0.0, help="LoRA dropout; above 0 it adds noise to PPO's policy ratio")
    num_ppo_epochs: int = arg(4, help="passes over each batch of responses")
    num_mini_batches: int = arg(1, help="optimizer steps per pass")
    local_rollout_forward_batch_size: int = arg(64, help="responses sampled at once")
    rollout_engine: PPOEngineName = arg("generate", help=f"{ENGINE_HELP}, or vllm")
    vllm_mode: Literal["server", "colocate"] = arg(
        "colocate", help="where rollout_engine vllm runs: server (`vllm serve`), colocate (in this process, on its GPU)"
    )
    vllm_server_base_url: str = arg("http://127.0.0.1:8000", help="where the vLLM server is")
    vllm_server_timeout: float = arg(240.0, help="seconds that the vLLM server may take for an answer")
    vllm_group_port: int = arg(51216, help="port of this machine from which the vLLM server gets the weights")
    vllm_gpu_memory_utilization: float = arg(
        0.3, help="share of the GPU's memory that colocated vLLM takes while it samples: its weights and KV cache"
    )
    merge_in_rollouts: bool = arg(
        True,
        help="sample from a copy of the base model with the adapter merged: a float32 copy of a float32 base, "
        "with bf16 a bfloat16 copy, equal to the policy up to rounding; of a 4-bit base if the copy fits into memory",
    )
    kl_coef: float = arg(0.05, help="weight of the per-token KL penalty in the reward")
    kl_estimator: Literal["k1", "k3"] = arg("k1", help="KL estimator, see joschu.net/blog/kl-approx.html")
    kl_target: float | None = arg(None, help="adapt kl_coef to reach this KL, in nats per response")
    kl_horizon: int = arg(10_000, help="number of responses over which kl_coef adapts")
    max_kl: float = arg(20.0, help="stop when the mean KL exceeds this, in nats per response")
    cliprange: float = arg(0.2, help="clip range of the policy ratio")
    cliprange_value: float = arg(0.2, help="clip range of the value")
    vf_coef: float = arg(0.1, help="weight of the value loss")
    entropy_coef: float = arg(0.0, help="weight of an entropy bonus")
    gamma: float = arg(1.0, help="discount factor")
    lam: float = arg(0.95, help="lambda of GAE (arXiv 1506.02438)")
    whiten_rewards: bool = arg(False, help="divide rewards by their standard deviation in the batch")
    missing_eos_penalty: float | None = arg(None, help="penalty on the reward of a response without an EOS token")
    ptx_coef: float = arg(0.0, help="weight of the language modeling loss on ptx_datasets")
    ptx_datasets: list[DatasetEntry] = arg(factory=list, help="rows as for SFT, whose loss ptx_coef adds")
    ptx_max_length: int = arg(512, help="maximum tokens per row of ptx_datasets; longer rows are truncated")
    logging_steps: float = arg(1, help="updates between lines of metrics.jsonl")
    sample_steps: int | None = arg(None, help="updates between samples in rollouts.jsonl; none: no samples")
    metric_for_best_model: Literal["eval_reward", "eval_kl", "eval_entropy", "eval_length"] = arg(
        "eval_reward", help="highest is best; for eval_kl lowest"
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.reward_model_path, str) and self.reward_model_path:
            path, revision = split_revision(self.reward_model_path, self.reward_model_revision)
            self.reward_model_path, self.reward_model_revision = path, revision

    # Most other fields of the trainer's config concern a loop over batches of a data loader: PPO accepts none.
    @classmethod
    def extra_field(cls, name: str) -> None:
        return None

    @classmethod
    def refused_field(cls, name: str) -> str | None:
        names = getattr(cls.trainer_config_class(), "__dataclass_fields__", {})
        return REFUSED.get(name) or ("PPO does not use it: remove it" if name in names else None)

    trainer_config = ("hfkit.rlhf", "PPOArguments")
    learning_rates = PPO_RATES
