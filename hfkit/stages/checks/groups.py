"""Validates what only a config of GRPO or RLOO has: batches of whole groups, rewards, engines."""

from hfkit.config.stages import GRPOConfig, RLOOConfig
from hfkit.core.errors import Problem
from hfkit.core.launch import world_size
from hfkit.stages.checks.architecture import find_model_config
from hfkit.stages.checks.rewards import reward_problems
from hfkit.stages.checks.rules import broken_rules, unused_rules
from hfkit.stages.checks.vllm import vllm_problems

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""The losses of GRPO that clip the policy ratio from below and from above."""
LOWEST_TEMPERATURE = 0.01
LEVEL, ADAPTIVE = "importance_sampling_level", "use_adaptive_entropy"


def group_problems(config: GRPOConfig | RLOOConfig) -> list[Problem]:
    """Return every problem of the fields that GRPO and RLOO have."""
    return (
        broken_rules(config, group_rules(config))
        + vllm_problems(config, find_model_config(config))
        + reward_problems(config)
    )


def group_rules(config: GRPOConfig | RLOOConfig) -> list[tuple]:
    """Return the rules of groups, whole ones of which fill a batch of responses, and those of GRPO's losses."""
    given = config.extra.get("steps_per_generation")
    passes = given or config.gradient_accumulation_steps
    batch, group = config.per_device_train_batch_size * passes * world_size(), config.num_generations
    whole = f"must divide a batch of {batch} responses (per_device_train_batch_size x steps_per_generation, by default "
    whole += "gradient_accumulation_steps, x processes)"
    sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
    loading, splits = config.extra.get("accelerator_config"), ("split_batches", "dispatch_batches")
    is_split = isinstance(loading, dict) and any(loading.get(name) for name in splits)
    split = (
        "each process samples responses to its own whole batch of prompts: remove split_batches and dispatch_batches"
    )
    alike = f"responses to a prompt would be alike, with nothing to compare: set {LOWEST_TEMPERATURE} or more"
    return [
        (config.lora_dropout, "lora_dropout", "dropout would add noise to the policy ratio: set 0"),
        (group < 2, "num_generations", "expected 2 or more: responses to a prompt are compared with one another"),
        (group >= 2 and batch % group, "num_generations", whole, *sizes),
        (given is not None and given < 1, "steps_per_generation", "must be above 0"),
        (0 < config.temperature < LOWEST_TEMPERATURE, "temperature", alike),
        (is_split, "accelerator_config", split),
        *unused_rules(config, {"max_kl": (config.beta, "with beta: 0, which measures no KL", "beta")}),
        *(loss_rules(config) if isinstance(config, GRPOConfig) else ()),
    ]


def loss_rules(config: GRPOConfig) -> list[tuple]:
    """Return the rules of GRPO's losses: which keys each of them needs and uses."""
    extra, loss, high = config.extra, config.loss_type, config.epsilon_high
    level, delta, share = extra.get(LEVEL, "token"), extra.get("delta"), extra.get("top_entropy_quantile")
    least = 1 + (config.epsilon if high is None else high)
    is_whole = extra.get(ADAPTIVE) or extra.get("entropy_coef") or (share is not None and share < 1)
    budget = "has no effect with entropy_coef or top_entropy_quantile, which are computed of whole batches: remove it"
    highest = "is the highest ratio of cispo, not a range: must be above 1, such as 5.0"
    used = {
        "epsilon": (loss in CLIPPED, f"with loss_type: {loss}", "loss_type"),
        "epsilon_high": (loss in (*CLIPPED, "cispo"), f"with loss_type: {loss}", "loss_type"),
        "delta": (loss in CLIPPED, f"with loss_type: {loss}", "loss_type"),
        LEVEL: (loss != "vespo", "with loss_type: vespo", "loss_type"),
        "use_bias_correction_kl": (config.beta, "with beta: 0", "beta"),
    }
    bounds = ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target")
    used |= {name: (extra.get(ADAPTIVE), f"without {ADAPTIVE}", ADAPTIVE) for name in bounds}
    for name in extra:
        if (owner := name.partition("_")[0]) in ("sapo", "vespo"):
            used[name] = (loss == owner, f"without loss_type: {owner}", "loss_type")
    temperatures = [name for name in ("sapo_temperature_pos", "sapo_temperature_neg") if name in extra]
    return [
        (loss == "cispo" and (high is None or high <= 1), "epsilon_high", highest, "loss_type"),
        (loss == "luspo" and level == "token", LEVEL, "luspo is a loss of sequences: set sequence", "loss_type"),
        (level not in ("token", "sequence"), LEVEL, "expected token or sequence"),
        (delta is not None and loss in CLIPPED and delta <= least, "delta", f"must be above {least:g}, 1 + epsilon"),
        (share is not None and not 0 <= share <= 1, "top_entropy_quantile", "must be from 0 to 1"),
        *((loss == "sapo" and extra[name] <= 0, name, "must be above 0") for name in temperatures),
        (is_whole and config.max_tokens_per_micro_batch, "max_tokens_per_micro_batch", budget),
        *unused_rules(config, used),
    ]
