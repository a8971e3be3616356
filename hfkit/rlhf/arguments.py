"""The arguments of the trainers of PPO, DPO, GRPO and RLOO: the fields of TRL's configs, and those that hfkit adds."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from accelerate import PartialState
from trl import DPOConfig, GRPOConfig, RLOOConfig

from hfkit.rlhf.trl_ppo import ArgumentsBase


def option(default: Any, text: str) -> Any:
    """Return a field with a default and a help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class OnlineArguments:
    """How responses are sampled, scored and cut into micro-batches, when training stops, and what is best."""

    response_length: int = option(53, "most tokens of a response")
    temperature: float = option(0.7, "sampling temperature")
    local_rollout_forward_batch_size: int = option(64, "responses that a process samples at once")
    rollout_engine: str = option("generate", "generate, static, continuous or vllm")
    vllm_mode: Literal["server", "colocate"] = option("colocate", "`vllm serve`, or in this process")
    vllm_server_base_url: str = option("http://127.0.0.1:8000", "where the vLLM server is")
    vllm_server_timeout: float = option(240.0, "seconds that it may take for an answer")
    vllm_group_port: int = option(51216, "port of this machine from which it gets the weights")
    vllm_gpu_memory_utilization: float = option(0.3, "share of the GPU's memory that colocated vLLM takes")
    max_prompt_length: int | None = option(None, "most tokens of a prompt, for colocated vLLM; none: the context")
    merge_in_rollouts: bool = option(True, "sample with the adapter merged into the base")
    sample_steps: int | None = option(None, "updates between two samples in rollouts.jsonl")
    missing_eos_penalty: float | None = option(None, "subtracted from the score of a response that does not end")
    reward_clip: float | None = option(None, "clip scores to +- this")
    max_kl: float = option(20.0, "nats per response above which training stops")
    metric_for_best_model: str = option("eval_reward", "eval_reward, eval_kl, ...")
    greater_is_better: bool | None = option(None, "whether its highest value is best; none: unless it is eval_kl")
    max_tokens_per_micro_batch: int | None = option(None, "padding included")
    micro_batches_by_length: bool = option(True, "rows of similar length share a forward pass")

    def __post_init__(self) -> None:
        self.metric_for_best_model = f"eval_{self.metric_for_best_model.removeprefix('eval_')}"
        if self.greater_is_better is None:
            self.greater_is_better = self.metric_for_best_model != "eval_kl"
        super().__post_init__()  # type: ignore[misc]  # of Transformers' or TRL's arguments


@dataclass
class PPOArguments(OnlineArguments, ArgumentsBase):  # type: ignore[misc]  # a narrower type, as below
    """The fields of TRL 1.12's PPOConfig with its defaults, plus those of hfkit's loop.

    A YAML fills `hfkit.config.stages.PPOConfig` instead.
    """

    # Of TrainingArguments, with TRL's defaults
    output_dir: str = option("trainer_output", "folder for checkpoints and rollouts.jsonl")
    learning_rate: float = option(3e-6, "learning rate of the policy")
    logging_steps: float = option(10, "updates between two logs; below 1, their share of all updates")
    gradient_checkpointing: bool = option(True, "recompute activations in the backward pass")
    bf16: bool | None = option(None, "autocast to bfloat16; none: unless fp16")  # type: ignore[assignment]
    push_to_hub: bool = option(False, "create a repository on the Hub, and push what `save_model` saves")
    # Responses
    total_episodes: int | None = option(None, "responses to sample; none: num_train_epochs of the prompts")
    stop_token: Literal["eos"] | None = option(None, "always eos: responses end at the model's stop tokens")
    stop_token_id: int | None = option(None, "set eos_token_id in the policy's generation config instead")
    # Rewards
    normalize_rewards: bool = option(False, "by their running mean and standard deviation")
    whiten_rewards: bool = option(False, "divide rewards by their standard deviation in the batch")
    kl_coef: float = option(0.05, "weight of the KL penalty in the reward")
    kl_estimator: Literal["k1", "k3"] = option("k1", "KL estimator, see http://joschu.net/blog/kl-approx.html")
    kl_target: float | None = option(None, "adapt kl_coef to this KL, in nats per response")
    kl_horizon: int = option(10_000, "episodes over which kl_coef adapts")
    gamma: float = option(1.0, "discount factor")
    lam: float = option(0.95, "lambda of GAE")
    # The update
    num_ppo_epochs: int = option(4, "passes over each batch of responses")
    num_mini_batches: int = option(1, "optimizer steps in a pass")
    cliprange: float = option(0.2, "clip range of the policy ratio")
    cliprange_value: float = option(0.2, "clip range of the value")
    vf_coef: float = option(0.1, "weight of the value loss")
    entropy_coef: float = option(0.0, "weight of the entropy bonus")
    ptx_coef: float = option(0.0, "weight of the language modeling loss")
    value_learning_rate: float | None = option(None, "learning rate of the value model; none: learning_rate")
    value_warmup_steps: int = option(0, "updates that train only the value model")
    # Set by `set_batch_sizes`
    world_size: int | None = option(None, "processes")
    num_total_batches: int | None = option(None, "updates")
    batch_size: int | None = option(None, "responses of an update, over all processes")
    local_batch_size: int | None = option(None, "responses of an update in one process")
    mini_batch_size: int | None = option(None, "responses of an optimizer step, over all processes")
    local_mini_batch_size: int | None = option(None, "responses of an optimizer step in one process")
    micro_batch_size: int | None = option(None, "per_device_train_batch_size, over all processes")
    # Of TRL's script and loop; hfkit's loop does not read them
    dataset_num_proc: int | None = option(None, "processes that tokenize")
    num_sample_generations: int = option(10, "times that TRL's loop prints samples; see sample_steps")
    sft_model_path: str = option("EleutherAI/pythia-160m", "SFT model")
    reward_model_path: str = option("EleutherAI/pythia-160m", "reward model")
    model_adapter_name: str | None = option(None, "name of the adapter that is trained")
    ref_adapter_name: str | None = option(None, "name of the reference's adapter")
    ds3_gather_for_generation: bool = option(True, "gather the weights of DeepSpeed ZeRO-3, which PPO refuses")

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.fp16
        super().__post_init__()

    def set_batch_sizes(self, prompts: int) -> None:
        """Set the sizes that follow from the number of processes and of prompts."""
        self.world_size = PartialState().num_processes
        self.micro_batch_size = self.per_device_train_batch_size * self.world_size
        self.local_batch_size = self.per_device_train_batch_size * self.gradient_accumulation_steps
        self.batch_size = self.local_batch_size * self.world_size
        self.local_mini_batch_size = self.local_batch_size // self.num_mini_batches
        self.mini_batch_size = self.batch_size // self.num_mini_batches
        if self.total_episodes is None:
            self.total_episodes = int(self.num_train_epochs * prompts)
        self.num_total_batches = math.ceil(self.total_episodes / self.batch_size)


@dataclass
class DPOArguments(DPOConfig):
    """The fields of TRL's DPOConfig, and how responses to held-out prompts are sampled."""

    response_length: int = option(128, "most tokens of a response")
    temperature: float = option(0.7, "sampling temperature")
    rollout_engine = "generate"  # no field: nothing is sampled while DPO trains


@dataclass
class GroupArguments(OnlineArguments):
    """The fields that hfkit adds to both GRPOConfig and RLOOConfig of TRL."""

    def __post_init__(self) -> None:
        self.max_completion_length = self.response_length
        self.disable_dropout = True  # dropout changes the policy ratio, even at a learning rate of 0
        self.num_generations_eval, self.reward_weights = 1, None  # the scorer weighs its parts
        super().__post_init__()

    @property
    def local_batch_size(self) -> int:
        """The number of responses that a process samples at a time."""
        return self.per_device_train_batch_size * self.steps_per_generation  # type: ignore[attr-defined]


@dataclass
class GRPOArguments(GroupArguments, GRPOConfig):  # type: ignore[misc]  # fields of both have narrower types here
    """The fields of TRL's GRPOConfig, and those of hfkit's rollouts and rewards."""


@dataclass
class RLOOArguments(GroupArguments, RLOOConfig):  # type: ignore[misc]
    """The fields of TRL's RLOOConfig, and those of hfkit's rollouts and rewards."""


OnlinePolicyArguments = PPOArguments | GRPOArguments | RLOOArguments
"""The arguments of a trainer that learns from the responses that it samples."""
SamplingArguments = PPOArguments | DPOArguments | GRPOArguments | RLOOArguments
"""The arguments of a trainer that say how responses are sampled, and in which processes."""
