"""Validates what only a PPO config has: batches, rewards, penalties, and when the best checkpoint is kept."""

from peft import TaskType

from hfkit.config.fields import models_named
from hfkit.config.stages import PPOConfig
from hfkit.config.trainer_fields import METRIC_SCHEDULES
from hfkit.core.errors import Problem, reason
from hfkit.core.launch import world_size
from hfkit.models.adapter_shape import fit_to_model, get_on_meta, lora_config
from hfkit.models.fitting import model_on_meta
from hfkit.models.loading import cached_config
from hfkit.records.source import Source
from hfkit.rlhf.roles import shares_policy_vocabulary
from hfkit.rlhf.trainer_checks import METRIC_SCHEDULE, NOT_BY_PPO, OF_TRAINER, precision_problems
from hfkit.stages.checks.architecture import (
    MODEL_KEYS,
    find_model_config,
)
from hfkit.stages.checks.rewards import reward_problems
from hfkit.stages.checks.rules import broken_rules
from hfkit.stages.checks.vllm import vllm_problems

BATCH_KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps")


def ppo_problems(config: PPOConfig) -> list[Problem]:
    """Return every problem of PPO's own fields."""
    problems = [*precision_problems(config), *broken_rules(config, ppo_rules(config))]
    problems += vllm_problems(config, find_model_config(config))
    return [*problems, *reward_problems(config), *value_adapter_problems(config)]


def ppo_rules(config: PPOConfig) -> list[tuple]:
    """Return the rules of PPO's own fields, as for `broken_rules`."""
    return [
        (config.lora_dropout, "lora_dropout", "dropout would add noise to the policy ratio: set 0"),
        (any(name in (config.optim or "") for name in OF_TRAINER), "optim", NOT_BY_PPO),
        (config.lr_scheduler_type in METRIC_SCHEDULES, "lr_scheduler_type", METRIC_SCHEDULE),
        *batch_rules(config),
        *penalty_rules(config),
    ]


def batch_rules(config: PPOConfig) -> list[tuple]:
    """Return the rules of batch sizes: divisible into mini-batches, and large enough for an update."""
    passes, mini_batches, episodes = config.gradient_accumulation_steps, config.num_mini_batches, config.total_episodes
    batch, processes = config.per_device_train_batch_size * passes, world_size()
    uneven = mini_batches > 0 and passes % mini_batches != 0
    divide = "must divide gradient_accumulation_steps: an optimizer step is a whole number of forward passes"
    whiten = not uneven and config.whiten_rewards and batch < 8 * mini_batches
    too_few = episodes is not None and 0 < episodes < batch * processes and config.max_steps == -1
    less = f"less than one batch, {batch * processes} (per_device_train_batch_size x gradient_accumulation_steps"
    less += ")" if processes == 1 else f" x {processes} processes)"
    return [
        (uneven, "num_mini_batches", divide, "gradient_accumulation_steps"),
        (whiten, "whiten_rewards", "needs mini-batches of 8 responses or more", "num_mini_batches", *BATCH_KEYS),
        (too_few, "total_episodes", less, "max_steps", *BATCH_KEYS),
    ]


def penalty_rules(config: PPOConfig) -> list[tuple]:
    """Return the rules of the KL penalty and of the ptx loss: a weight needs its term, a term needs its weight."""
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size()
    adapts, has_ptx = config.kl_target is not None, bool(config.ptx_datasets)
    jumps = f"less than one batch ({batch} responses), so kl_coef would jump: 10000 is common"
    no_rows, no_weight = (
        "has no effect without rows: set ptx_datasets",
        "ptx_datasets has no effect at 0: set it above 0",
    )
    return [
        (adapts and config.kl_coef == 0, "kl_target", "kl_coef cannot adapt from 0: set it above 0", "kl_coef"),
        (adapts and 0 < config.kl_horizon < batch, "kl_horizon", jumps, "kl_target", *BATCH_KEYS),
        (config.ptx_coef > 0 and not has_ptx, "ptx_coef", no_rows, "ptx_datasets"),
        (config.ptx_coef == 0 and has_ptx, "ptx_coef", no_weight, "ptx_datasets"),
    ]


def value_adapter_problems(config: PPOConfig) -> list[Problem]:
    """Return the problem of a policy's adapter that matches nothing in the value model, which has no LM head.

    A value model that starts from a reward model's adapter has the shape of that adapter.
    """
    if not config.use_peft:
        return []
    try:
        from_reward = config.reward_model_path is not None and shares_policy_vocabulary(config)
        path, revision = models_named(config)[-1 if from_reward else 0][1:]
        source = Source.of(path, revision)
        if from_reward and source.adapter is not None:
            return []
        model = model_on_meta(path, cached_config(path, revision), TaskType.SEQ_CLS)
    except Exception:  # other checks report missing or unreadable models
        return []
    try:
        get_on_meta(model, fit_to_model(lora_config(config, source, TaskType.SEQ_CLS), model))
    except (ValueError, TypeError, KeyError) as error:  # raised by PEFT for a shape that it cannot create
        key = "model_name_or_path" if source.adapter else "lora_target_modules"
        remedy = "PPO's value model is a classifier without an LM head, and has none of these modules"
        remedy = f"{remedy}: also adapt modules within the layers ({reason(error)})"
        return [Problem(key, getattr(config, key), remedy, keys=("use_peft", *MODEL_KEYS, "reward_model_path"))]
    return []
