"""The arguments of the trainers of PPO, DPO, GRPO and RLOO: the fields of TRL's configs, and those that hfkit adds."""

import math
from dataclasses import dataclass
from typing import Literal

from accelerate import PartialState
from trl import DPOConfig, GRPOConfig, RLOOConfig

from hfkit.config.fields import arg
from hfkit.config.online import RolloutFields
from hfkit.config.stages import EvalPromptFields, PPOFields
from hfkit.config.trainer_fields import MicroBatchFields
from hfkit.rlhf.trl_ppo import ArgumentsBase


@dataclass
class OnlineArguments(RolloutFields, MicroBatchFields):
    """How responses are sampled, scored and cut into micro-batches, when training stops, and what is best."""

    max_prompt_length: int | None = arg(None, help="most tokens of a prompt, for colocated vLLM; none: the context")
    metric_for_best_model: str = arg("eval_reward", help="eval_reward, eval_kl, ...")
    greater_is_better: bool | None = arg(None, help="whether its highest value is best; none: unless it is eval_kl")

    def __post_init__(self) -> None:
        self.metric_for_best_model = f"eval_{self.metric_for_best_model.removeprefix('eval_')}"
        if self.greater_is_better is None:
            self.greater_is_better = self.metric_for_best_model != "eval_kl"
        super().__post_init__()  # type: ignore[misc]  # of Transformers' or TRL's arguments


@dataclass
class PPOArguments(PPOFields, OnlineArguments, ArgumentsBase):  # type: ignore[misc]  # a narrower type, as below
    """The fields of TRL 1.12's PPOConfig with its defaults, plus those of hfkit's loop.

    A YAML fills `hfkit.config.stages.PPOConfig` instead.
    """

    # Of TrainingArguments, with TRL's defaults
    output_dir: str = arg("trainer_output", help="folder for checkpoints and rollouts.jsonl")
    learning_rate: float = arg(3e-6, help="learning rate of the policy")
    logging_steps: float = arg(10, help="updates between two logs; below 1, their share of all updates")
    gradient_checkpointing: bool = arg(True, help="recompute activations in the backward pass")
    bf16: bool | None = arg(None, help="autocast to bfloat16; none: unless fp16")  # type: ignore[assignment]
    push_to_hub: bool = arg(False, help="create a repository on the Hub, and push what `save_model` saves")
    # Of TRL's loop, with one value here
    stop_token: Literal["eos"] | None = arg(None, help="always eos: responses end at the model's stop tokens")
    stop_token_id: int | None = arg(None, help="set eos_token_id in the policy's generation config instead")
    # Set by `set_batch_sizes`
    world_size: int | None = arg(None, help="processes")
    num_total_batches: int | None = arg(None, help="updates")
    batch_size: int | None = arg(None, help="responses of an update, over all processes")
    local_batch_size: int | None = arg(None, help="responses of an update in one process")
    mini_batch_size: int | None = arg(None, help="responses of an optimizer step, over all processes")
    local_mini_batch_size: int | None = arg(None, help="responses of an optimizer step in one process")
    micro_batch_size: int | None = arg(None, help="per_device_train_batch_size, over all processes")
    # Of TRL's script and loop; hfkit's loop does not read them
    dataset_num_proc: int | None = arg(None, help="processes that tokenize")
    num_sample_generations: int = arg(10, help="times that TRL's loop prints samples; see sample_steps")
    sft_model_path: str = arg("EleutherAI/pythia-160m", help="SFT model")
    reward_model_path: str = arg("EleutherAI/pythia-160m", help="reward model")
    model_adapter_name: str | None = arg(None, help="name of the adapter that is trained")
    ref_adapter_name: str | None = arg(None, help="name of the reference's adapter")
    ds3_gather_for_generation: bool = arg(True, help="gather the weights of DeepSpeed ZeRO-3, which PPO refuses")

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
            self.total_episodes = max(int(self.num_train_epochs * prompts), 1)
        self.num_total_batches = math.ceil(self.total_episodes / self.batch_size)


@dataclass
class DPOArguments(EvalPromptFields, DPOConfig):
    """The fields of TRL's DPOConfig, and how responses to held-out prompts are sampled."""

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
