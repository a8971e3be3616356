"""Validates what only a PPO config has: batches, rewards, penalties, and when the best checkpoint is kept."""

from peft import TaskType

from hfkit.config.fields import models_named
from hfkit.config.stages import PPOConfig
from hfkit.core.errors import HfkitError, Problem, kind_of_error, reason
from hfkit.core.launch import world_size
from hfkit.models.adapter_shape import fit_to_model, get_on_meta, lora_config
from hfkit.models.fitting import model_on_meta
from hfkit.models.loading import cached_config, is_classifier
from hfkit.models.reward_sources import reward_fault
from hfkit.records.source import Source
from hfkit.rlhf.reward_functions import check_reward_function
from hfkit.rlhf.reward_quality import recorded_pair_metrics
from hfkit.rlhf.rewards import load_reward_tokenizer
from hfkit.rlhf.roles import shares_policy_vocabulary
from hfkit.rlhf.trainer_checks import precision_problems
from hfkit.stages.checks.architecture import (
    MODEL_KEYS,
    find_model_config,
    find_reward_config,
    reward_length_problems,
)
from hfkit.stages.checks.models import revision_problems, weights_problems
from hfkit.stages.checks.rules import broken_rules
from hfkit.stages.checks.vllm import vllm_problems

RESERVED_COLUMNS = ("prompt", "prompts", "replies", "input_ids", "length", "dropped", "faults", "cut")
"""Names that no column for a reward function may have."""
BATCH_KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps")
REWARD_KEYS = ("reward_model_path", "reward_model_revision")


def ppo_problems(config: PPOConfig) -> list[Problem]:
    """Return every problem of PPO's own fields."""
    rules = response_rules(config) + batch_rules(config) + function_rules(config) + penalty_rules(config)
    problems = [*precision_problems(config), *broken_rules(config, rules)]
    problems += vllm_problems(config, find_model_config(config))
    return [*problems, *reward_problems(config), *value_adapter_problems(config)]


def response_rules(config: PPOConfig) -> list[tuple]:
    """Return the rules of responses: no dropout makes them random."""
    return [(config.lora_dropout, "lora_dropout", "PPO runs without dropout: set 0")]


def batch_rules(config: PPOConfig) -> list[tuple]:
    """Return the rules of batches: mini-batches divide them, and they are large enough for an update."""
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


def function_rules(config: PPOConfig) -> list[tuple]:
    """Return the rules of reward functions: each is named once, and weights and columns fit them."""
    functions, columns, weights = config.reward_functions, config.reward_columns, config.reward_weights
    reserved = [column for column in columns if column in RESERVED_COLUMNS]
    rename = f"{', '.join(reserved)} is reserved: map the column to another name with datasets: [{{columns: ...}}]"
    parts = ["reward_model_path"] * (config.reward_model_path is not None) + functions
    count = f"expected {len(parts)}, one for each of: {', '.join(parts) or 'nothing'}"
    unused = "only reward_functions read columns: name one, or remove reward_columns"
    return [
        (len({*functions}) < len(functions), "reward_functions", "names one twice: weigh it by reward_weights"),
        (columns and not functions, "reward_columns", unused, "reward_functions"),
        (reserved, "reward_columns", rename),
        (weights and len(weights) != len(parts), "reward_weights", count, "reward_model_path", "reward_functions"),
    ]


def penalty_rules(config: PPOConfig) -> list[tuple]:
    """Return the rules of the KL penalty and of the ptx loss: no weight without a term, no term without its weight."""
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size()
    adapts, has_ptx = config.kl_target is not None, bool(config.ptx_datasets)
    jumps = f"less than one batch ({batch} responses), so kl_coef would jump: 10000 is common"
    no_rows, no_weight = "has no effect without rows: name ptx_datasets", "set it above 0, for ptx_datasets to count"
    return [
        (adapts and config.kl_coef == 0, "kl_target", "kl_coef is 0, and cannot adapt: set it above 0", "kl_coef"),
        (adapts and 0 < config.kl_horizon < batch, "kl_horizon", jumps, "kl_target", *BATCH_KEYS),
        (config.ptx_coef > 0 and not has_ptx, "ptx_coef", no_rows, "ptx_datasets"),
        (config.ptx_coef == 0 and has_ptx, "ptx_coef", no_weight, "ptx_datasets"),
    ]


def reward_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of what scores responses: functions that cannot be imported, no reward model, or an unfit one."""
    problems, path = [], config.reward_model_path
    for index, function in enumerate(config.reward_functions):
        try:
            check_reward_function(function, config.reward_columns)
        except HfkitError as error:
            problems.append(Problem(f"reward_functions[{index}]", function, str(error)))
    if path is not None:
        problems += revision_problems("reward_model_revision", config.reward_model_revision, "reward_model_path", path)
        fault = weights_problems("reward_model_path", path) or reward_tokenizer_problems(config)
        if not fault and not is_classifier(path, config.reward_model_revision):
            remedy = "not a reward model, which has a score head: train one with `hfkit reward`"
            fault = [Problem("reward_model_path", path, remedy, keys=REWARD_KEYS)]
        elif not fault and (error := reward_fault(path, config.reward_model_revision)):
            fault = [Problem("reward_model_path", path, str(error), kind_of_error(error), REWARD_KEYS)]
        too_long = reward_length_problems(config, find_model_config(config), find_reward_config(config))
        return problems + (fault or too_long + accuracy_problems(config))
    missing = "missing: a model from `hfkit reward`, or name reward_functions"
    has_minimum, no_model = config.min_reward_accuracy is not None, "has no effect without reward_model_path"
    rules = [
        (not config.reward_functions, "reward_model_path", missing, "reward_functions"),
        (has_minimum, "min_reward_accuracy", no_model, "reward_model_path"),
    ]
    return problems + broken_rules(config, rules)


def accuracy_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of a reward model whose accuracy on held-out pairs is below the minimum, or unknown."""
    minimum, path = config.min_reward_accuracy, config.reward_model_path
    if minimum is None:
        return []
    figures = recorded_pair_metrics(path, config.reward_model_revision)
    if figures and figures["accuracy"] >= minimum:
        return []
    remedy = f"it is unknown how well {path} ranks held-out pairs: run `hfkit evaluate {path} --datasets PAIRS`"
    if figures:
        measured = f"{path} ranks {figures['accuracy']:.3f} of the held-out pairs right"
        remedy = f"{measured}: train a better reward model, or lower this"
    return [Problem("min_reward_accuracy", minimum, remedy, keys=REWARD_KEYS)]


def reward_tokenizer_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of a reward model's own tokenizer: it cannot be read, or has ids beyond the model's embedding."""
    path = config.reward_model_path
    try:
        highest = max(load_reward_tokenizer(config).get_vocab().values())
        size = cached_config(path, config.reward_model_revision).get_text_config().vocab_size
    except Exception as error:  # libraries raise errors of any kind for a broken folder
        return [Problem("reward_model_path", path, f"its tokenizer cannot be read: {reason(error)}", keys=REWARD_KEYS)]
    if highest < size:
        return []
    remedy = f"its tokenizer has ids up to {highest}, but its embedding ends at {size - 1}"
    remedy += ": save the model with resized embeddings"
    return [Problem("reward_model_path", path, remedy, keys=REWARD_KEYS)]


def value_adapter_problems(config: PPOConfig) -> list[Problem]:
    """Return the problem of an adapter of the policy that matches nothing in the value model, which has no LM head.

    A value model that starts from a reward model's adapter has that one's shape.
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
    except Exception:  # what is missing or cannot be read is reported by other checks
        return []
    try:
        get_on_meta(model, fit_to_model(lora_config(config, source, TaskType.SEQ_CLS), model))
    except (ValueError, TypeError, KeyError) as error:  # what peft raises for a shape that it cannot make
        key = "model_name_or_path" if source.adapter else "lora_target_modules"
        remedy = "PPO's value model is a classifier without a language model's head, and has none of these modules"
        remedy = f"{remedy}: adapt modules within the layers too ({reason(error)})"
        return [Problem(key, getattr(config, key), remedy, keys=("use_peft", *MODEL_KEYS, "reward_model_path"))]
    return []
