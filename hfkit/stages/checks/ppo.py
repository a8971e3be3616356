"""Validates what only a PPO config has: batches, rewards, penalties, and when the best checkpoint is kept."""

from hfkit.config.stages import PPOConfig
from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.models.loading import cached_config
from hfkit.rlhf.gate import held_out_figures
from hfkit.rlhf.guards import precision_problems
from hfkit.rlhf.reward_functions import import_function
from hfkit.rlhf.scores import reward_tokenizer
from hfkit.stages.checks.models import MODEL_KEYS, context_length, path_problems
from hfkit.stages.checks.numbers import HELD_OUT_KEYS, has_held_out

RESERVED_COLUMNS = ("prompt", "prompts", "replies", "input_ids", "length", "dropped", "faults", "cut")
"""Names that no column for a reward function may have."""
BATCH_KEYS = ("per_device_train_batch_size", "gradient_accumulation_steps")
REWARD_KEYS = ("reward_model_path", "reward_model_revision")


def ppo_problems(config: PPOConfig) -> list[Problem]:
    """Return every problem of PPO's own fields."""
    return [
        *response_problems(config),
        *precision_problems(config),
        *batch_problems(config),
        *function_problems(config),
        *penalty_problems(config),
        *best_problems(config),
        *reward_problems(config),
    ]


def response_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of responses that do not fit into the model's context, or that dropout would make random."""
    problems, limit = [], context_length(config)
    if config.lora_dropout:
        problems.append(Problem("lora_dropout", config.lora_dropout, "PPO runs without dropout: set 0"))
    if limit is not None and config.max_prompt_length + config.response_length > limit:
        remedy = f"with max_prompt_length={config.max_prompt_length} it exceeds the model's context of {limit} tokens"
        keys = ("max_prompt_length", *MODEL_KEYS)
        problems.append(Problem("response_length", config.response_length, remedy, keys=keys))
    return problems


def batch_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of batches that mini-batches do not divide, or that are too small for one update."""
    problems = []
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if config.num_mini_batches > 0 and config.gradient_accumulation_steps % config.num_mini_batches:
        remedy = "must divide gradient_accumulation_steps: an optimizer step is a whole number of forward passes"
        problems.append(Problem("num_mini_batches", config.num_mini_batches, remedy, keys=BATCH_KEYS))
    elif config.whiten_rewards and batch < 8 * config.num_mini_batches:
        remedy, keys = "needs mini-batches of 8 replies or more", ("num_mini_batches", *BATCH_KEYS)
        problems.append(Problem("whiten_rewards", True, remedy, keys=keys))
    if config.total_episodes is not None and 0 < config.total_episodes < batch and config.max_steps == -1:
        remedy = f"less than one batch, {batch} (per_device_train_batch_size x gradient_accumulation_steps)"
        problems.append(Problem("total_episodes", config.total_episodes, remedy, keys=("max_steps", *BATCH_KEYS)))
    return problems


def function_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of reward functions that cannot be imported, and of weights and columns that do not fit them."""
    problems = []
    for index, path in enumerate(config.reward_functions):
        try:
            import_function(path)
        except HfkitError as error:
            problems.append(Problem(f"reward_functions[{index}]", path, str(error)))
    if len({*config.reward_functions}) < len(config.reward_functions):
        remedy = "names a function twice: set its weight in reward_weights"
        problems.append(Problem("reward_functions", config.reward_functions, remedy))
    if config.reward_columns and not config.reward_functions:
        remedy = "only reward_functions read columns: name one, or remove reward_columns"
        problems.append(Problem("reward_columns", config.reward_columns, remedy, keys=("reward_functions",)))
    reserved = [column for column in config.reward_columns if column in RESERVED_COLUMNS]
    if reserved:
        remedy = f"{reserved[0]!r} is reserved: map the column to another name with datasets: [{{columns: ...}}]"
        problems.append(Problem("reward_columns", config.reward_columns, remedy))
    parts = ["reward_model_path"] * (config.reward_model_path is not None) + config.reward_functions
    if config.reward_weights and len(config.reward_weights) != len(parts):
        remedy = f"expected {len(parts)}, one for each of: {', '.join(parts) or 'nothing'}"
        keys = ("reward_model_path", "reward_functions")
        problems.append(Problem("reward_weights", config.reward_weights, remedy, keys=keys))
    return problems


def penalty_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of the KL penalty and of the ptx loss: a weight without a term, or a term without its weight."""
    problems = []
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if config.kl_target is not None and config.kl_coef == 0:
        remedy = "kl_coef is 0, which no factor can adapt: set it above 0"
        problems.append(Problem("kl_target", config.kl_target, remedy, keys=("kl_coef",)))
    if config.kl_target is not None and 0 < config.kl_horizon < batch:
        remedy = f"less than one batch ({batch} replies), so kl_coef would jump: 10000 is common"
        problems.append(Problem("kl_horizon", config.kl_horizon, remedy, keys=("kl_target", *BATCH_KEYS)))
    if config.ptx_coef > 0 and not config.ptx_datasets:
        remedy = "has no effect without rows: name ptx_datasets"
        problems.append(Problem("ptx_coef", config.ptx_coef, remedy, keys=("ptx_datasets",)))
    if config.ptx_datasets and config.ptx_coef == 0:
        paths, remedy = [entry.path for entry in config.ptx_datasets], "have no effect: set ptx_coef above 0"
        problems.append(Problem("ptx_datasets", paths, remedy, keys=("ptx_coef",)))
    return problems


def best_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of choosing the best checkpoint without evaluations."""
    if config.eval_strategy != "no" and has_held_out(config):
        return []
    remedy = "needs evaluations: set eval_strategy, and eval_datasets or test_split_size"
    wanted = {
        "load_best_model_at_end": config.load_best_model_at_end,
        "early_stopping_patience": config.early_stopping_patience,
    }
    keys = ("eval_strategy", *HELD_OUT_KEYS)
    return [Problem(key, value, remedy, keys=keys) for key, value in wanted.items() if value]


def reward_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of what scores replies: nothing does, or a reward model that is missing or unfit."""
    path = config.reward_model_path
    if path is None:
        remedy = "missing: a model from `hfkit reward`, or name reward_functions"
        missing = Problem("reward_model_path", None, remedy, keys=("reward_functions",))
        problems = [] if config.reward_functions else [missing]
        if config.min_reward_accuracy is not None:
            remedy = "has no effect without reward_model_path"
            problem = Problem("min_reward_accuracy", config.min_reward_accuracy, remedy, keys=("reward_model_path",))
            problems.append(problem)
        return problems
    return path_problems("reward_model_path", path) or reward_tokenizer_problems(config) or accuracy_problems(config)


def accuracy_problems(config: PPOConfig) -> list[Problem]:
    """Return problems of a reward model whose accuracy on held-out pairs is below the minimum, or unknown."""
    minimum, path = config.min_reward_accuracy, config.reward_model_path
    if minimum is None:
        return []
    figures = held_out_figures(path, config.reward_model_revision)
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
        highest = max(reward_tokenizer(config).get_vocab().values())
        size = cached_config(path, config.reward_model_revision).get_text_config().vocab_size
    except Exception as error:  # libraries raise errors of any kind for a broken folder
        return [Problem("reward_model_path", path, f"its tokenizer cannot be read: {reason(error)}", keys=REWARD_KEYS)]
    if highest < size:
        return []
    remedy = f"its tokenizer has ids up to {highest}, but its embedding ends at {size - 1}"
    return [Problem("reward_model_path", path, remedy, keys=REWARD_KEYS)]
