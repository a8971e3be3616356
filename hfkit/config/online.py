"""The config keys of the stages that sample replies to prompts and score them: rewards, replies, engines."""

from dataclasses import dataclass
from typing import Literal

from hfkit.config.fields import (
    ENGINE_HELP,
    DataFields,
    ModelFields,
    OutputFields,
    PPOEngineName,
    TrainerFields,
    arg,
)
from hfkit.core.hub_ids import split_revision


@dataclass(kw_only=True)
class OnlineConfig(ModelFields, DataFields, TrainerFields, OutputFields):
    """A policy that learns from scores of its own replies; the SFT model (`model_name_or_path`) is the KL reference."""

    reward_model_path: str | None = arg(None, help="reward model: folder or Hub id")
    reward_model_revision: str = arg("main", help="branch, tag or commit of a Hub reward model")
    reward_functions: list[str] = arg(
        factory=list, help="package.module:f or FILE.py:f, each f(prompts, replies, **columns) -> list[float]"
    )
    reward_weights: list[float] = arg(factory=list, help="for the reward model, then each function; empty: 1 each")
    reward_columns: list[str] = arg(factory=list, help="columns of the prompt data to pass to reward functions")
    min_reward_accuracy: float | None = arg(None, help="fail if the reward model's held-out accuracy is below this")
    reward_clip: float | None = arg(None, help="clip scores to [-reward_clip, reward_clip]")
    missing_eos_penalty: float | None = arg(None, help="penalty on the reward of a response without an EOS token")
    max_prompt_length: int = arg(512, help="maximum tokens per prompt; longer prompts are dropped and counted")
    response_length: int = arg(53, help="maximum tokens per response")
    temperature: float = arg(0.7, help="sampling temperature; no other sampling option applies")
    lora_dropout: float = arg(0.0, help="LoRA dropout; above 0 it adds noise to the policy ratio")
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
    max_kl: float = arg(20.0, help="stop when the mean KL exceeds this, in nats per response")
    metric_for_best_model: Literal["eval_reward", "eval_kl", "eval_entropy", "eval_length"] = arg(
        "eval_reward", help="highest is best; for eval_kl lowest"
    )
    logging_steps: float = arg(1, help="updates between lines of metrics.jsonl")
    sample_steps: int | None = arg(None, help="updates between samples in rollouts.jsonl; none: no samples")

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.reward_model_path, str) and self.reward_model_path:
            path, revision = split_revision(self.reward_model_path, self.reward_model_revision)
            self.reward_model_path, self.reward_model_revision = path, revision
