"""The config keys of the stages that sample responses to prompts and score them: rewards, responses, engines."""

from dataclasses import dataclass
from typing import Literal

from hfkit.config.fields import (
    ENGINE_HELP,
    DataFields,
    ModelFields,
    OpenLength,
    OutputFields,
    PPOEngineName,
    arg,
)
from hfkit.config.trainer_fields import TrainerFields
from hfkit.core.hub_ids import split_revision


@dataclass(kw_only=True)
class RolloutFields:
    """How responses are sampled and scored, and when training stops; arguments of the trainers too."""

    response_length: int = arg(53, help="maximum tokens per response")
    temperature: float = arg(0.7, help="sampling temperature; no other sampling option applies")
    local_rollout_forward_batch_size: int = arg(64, help="number of responses sampled at once on each device")
    rollout_engine: PPOEngineName = arg("generate", help=f"{ENGINE_HELP}, or vllm")
    vllm_mode: Literal["server", "colocate"] = arg(
        "colocate",
        help="where rollout_engine: vllm runs: server (`vllm serve`), colocate (in this process, on its GPU)",
    )
    vllm_server_base_url: str = arg("http://127.0.0.1:8000", help="URL of the vLLM server")
    vllm_server_timeout: float = arg(240.0, help="timeout of requests to the vLLM server, in seconds")
    vllm_group_port: int = arg(51216, help="port on this machine from which the vLLM server receives weights")
    vllm_gpu_memory_utilization: float = arg(
        0.3, help="share of the GPU's memory for colocated vLLM's weights and KV cache while it samples"
    )
    merge_in_rollouts: bool = arg(
        True,
        help="sample from a copy of the base model with the adapter merged, equal to the policy up to rounding, in "
        "float32, or bfloat16 with bf16; for a 4-bit base, only if the copy fits into memory",
    )
    max_kl: float = arg(20.0, help="stop when the mean KL exceeds this, in nats per response")
    sample_steps: int | None = arg(None, help="updates between samples written to rollouts.jsonl; none: no samples")
    missing_eos_penalty: float | None = arg(
        None, help="subtracted from the reward of a response without an EOS token; none: no penalty"
    )
    reward_clip: float | None = arg(None, help="clip rewards to [-reward_clip, reward_clip]; none: do not clip")


@dataclass(kw_only=True)
class OnlineConfig(RolloutFields, ModelFields, DataFields, TrainerFields, OutputFields):
    """A policy that learns from scores of its responses; the SFT model (`model_name_or_path`) is the KL reference."""

    reward_model_path: str | None = arg(None, help="reward model: folder or Hub id; none: only reward functions")
    reward_model_revision: str = arg("main", help="branch, tag or commit of a Hub reward model")
    reward_functions: list[str] = arg(
        factory=list,
        help="reward functions: package.module:f or FILE.py:f, each f(prompts, replies, **columns) -> list[float]",
    )
    reward_weights: list[float] = arg(
        factory=list, help="weights of the rewards: of the reward model, then of each function; empty: all 1"
    )
    reward_columns: list[str] = arg(factory=list, help="columns of the prompt data to pass to reward functions")
    min_reward_accuracy: float | None = arg(
        None, help="fail if the reward model's held-out accuracy is below this; none: no check"
    )
    max_prompt_length: int = arg(
        OpenLength(512),
        help="maximum tokens per prompt; longer prompts are dropped; the default leaves room for the response",
    )
    lora_dropout: float = arg(
        0.0, help="dropout probability on the adapter's input; above 0 it adds noise to the policy ratio"
    )
    metric_for_best_model: Literal["eval_reward", "eval_kl", "eval_entropy", "eval_length"] = arg(
        "eval_reward", help="metric that chooses the best checkpoint: the highest, or the lowest eval_kl"
    )
    logging_steps: float = arg(1, help="updates between logs to metrics.jsonl; below 1: share of all updates")

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.reward_model_path, str) and self.reward_model_path:
            path, revision = split_revision(self.reward_model_path, self.reward_model_revision)
            self.reward_model_path, self.reward_model_revision = path, revision
