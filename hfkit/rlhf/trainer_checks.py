"""Checks the inputs of PPOTrainer, so that settings which would train nothing, or the wrong thing, fail early."""

import os

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from hfkit.config.stages import GroupConfig, PPOConfig
from hfkit.config.trainer_fields import METRIC_SCHEDULES
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.launch import DEEPSPEED, FSDP
from hfkit.rlhf.arguments import PPOArguments
from hfkit.rlhf.forward import Model
from hfkit.rlhf.sharding_support import ppo_fsdp_problems

MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
"""The environment variable of Accelerate."""

METRIC_SCHEDULE = "PPO's schedule follows its updates, not a metric: set linear, cosine or another"


def validate_trainer_inputs(
    args: PPOArguments,
    tokenizer: PreTrainedTokenizerBase,
    model: Model,
    reward_model: Model | None,
    train_dataset: Dataset,
    value_model: Model,
    ref_model: Model | None = None,
) -> None:
    """Raise an HfkitError for inputs that PPO cannot train with."""
    if problems := precision_problems(args):
        raise ConfigError(problems)
    if parse_flag_from_env(DEEPSPEED) or getattr(args, "deepspeed", None):
        raise HfkitError("PPO would train nothing under DeepSpeed: train with DDP, or all weights with FSDP2")
    if parse_flag_from_env(FSDP) or getattr(args, "fsdp", None):
        if problems := ppo_fsdp_problems(isinstance(model, PeftModel), args.rollout_engine):
            raise ConfigError(problems)
    require_full_batch(len(train_dataset), args)
    if args.lr_scheduler_type in METRIC_SCHEDULES:
        raise ConfigError([Problem("lr_scheduler_type", str(args.lr_scheduler_type), METRIC_SCHEDULE)])
    if args.kl_estimator not in ("k1", "k3"):
        raise HfkitError(f"kl_estimator={args.kl_estimator!r}: expected k1 or k3")
    if getattr(args, "stop_token_id", None) is not None:
        raise HfkitError(
            f"stop_token_id={args.stop_token_id}: responses end at the model's stop tokens: set eos_token_id in the "
            "generation config of the policy"
        )
    if tokenizer.padding_side != "left":
        raise HfkitError("prompts must be padded on the left: set padding_side='left' in the tokenizer")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise HfkitError("pad token equals EOS, so the end of a response looks like padding: set pad_token")
    if args.gradient_accumulation_steps % args.num_mini_batches:
        raise HfkitError(
            f"num_mini_batches={args.num_mini_batches} must divide "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps}"
        )
    if ref_model is model:
        raise HfkitError("ref_model is the same object as model, so training would change the reference: pass a copy")
    if value_model is reward_model:
        raise HfkitError("value_model is the same object as reward_model, so training would change it: pass a copy")
    for role, trained in (("policy", model), ("value model", value_model)):
        if not any(parameter.requires_grad for parameter in trained.parameters()):
            raise HfkitError(f"the {role} has nothing to train: load its adapter with is_trainable=True")
        if getattr(trained, "is_quantized", False) and not isinstance(trained, PeftModel):
            raise HfkitError(
                f"the {role} is quantized and has no adapter, so only its embeddings, norms and head would train: set "
                "use_peft: true"
            )
    for role, scored in (("reward", reward_model), ("value", value_model)):
        if scored is not None and getattr(scored.config, "num_labels", None) != 1:
            raise HfkitError(f"the {role} model has num_labels={scored.config.num_labels}; PPO needs 1")


def require_full_batch(prompts: int, args: PPOConfig | PPOArguments) -> None:
    """Raise an HfkitError if there are fewer prompts than an update of all processes takes."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * PartialState().num_processes
    if prompts < batch:
        raise HfkitError(
            f"{prompts} prompts < batch of {batch} (per_device_train_batch_size x gradient_accumulation_steps x "
            "processes): each update would use some prompts twice. Add prompts, or lower the batch size"
        )


def require_full_groups(prompts: int, config: GroupConfig) -> None:
    """Raise an HfkitError if there are fewer prompts than a batch of responses of all processes takes."""
    passes = config.extra.get("steps_per_generation") or config.gradient_accumulation_steps
    replies = config.per_device_train_batch_size * passes * PartialState().num_processes
    if prompts < replies // config.num_generations:
        raise HfkitError(
            f"{prompts} prompts < {replies // config.num_generations} of a batch ({replies} responses, num_generations="
            f"{config.num_generations}): no update is possible. Add prompts, or lower the batch size"
        )


def precision_problems(config: PPOConfig | PPOArguments) -> list[Problem]:
    """Return the problem of fp16 in the config or in Accelerate's environment, since the losses are not scaled."""
    remedy = "PPO does not scale its losses for fp16: set bf16, or remove it"
    problems = [Problem("fp16", True, remedy)] if getattr(config, "fp16", False) else []
    if os.environ.get(MIXED_PRECISION) == "fp16":
        problems.append(Problem(MIXED_PRECISION, "fp16", remedy))
    return problems
