"""PPO: batches that divide, what is rewarded, what is weighed against it, and when the best is kept."""

from hfkit.config.stages import PPOConfig
from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.models.loading import cached_config
from hfkit.rlhf.reward_functions import import_reward_function
from hfkit.rlhf.reward_quality import recorded_pair_metrics
from hfkit.rlhf.rewards import load_reward_tokenizer
from hfkit.rlhf.validation import precision_problems
from hfkit.stages.checks.models import path_problems
from hfkit.stages.checks.numbers import has_held_out

TAKEN = ("prompt", "prompts", "replies", "input_ids", "length", "dropped", "faults", "cut")
"""Names that no column for a reward function can have."""


def ppo_problems(config: PPOConfig) -> list[Problem]:
    """Everything that only PPO's own fields can get wrong."""
    return [
        *precision_problems(config),
        *batch_problems(config),
        *function_problems(config),
        *penalty_problems(config),
        *best_problems(config),
        *reward_problems(config),
    ]


def batch_problems(config: PPOConfig) -> list[Problem]:
    """Optimizer steps that are no whole number of forward passes; too little for one update."""
    problems = []
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if config.num_mini_batches > 0 and config.gradient_accumulation_steps % config.num_mini_batches:
        remedy = "must divide gradient_accumulation_steps: an optimizer step is a whole number of forward passes"
        problems.append(Problem("num_mini_batches", config.num_mini_batches, remedy))
    elif config.whiten_rewards and batch < 8 * config.num_mini_batches:
        problems.append(Problem("whiten_rewards", True, "needs mini-batches of 8 replies or more"))
    if config.total_episodes is not None and 0 < config.total_episodes < batch and config.max_steps == -1:
        remedy = f"less than one batch, {batch} (per_device_train_batch_size x gradient_accumulation_steps)"
        problems.append(Problem("total_episodes", config.total_episodes, remedy))
    return problems


def function_problems(config: PPOConfig) -> list[Problem]:
    """Reward functions that cannot be imported, and weights and columns that do not fit them."""
    problems = []
    for place, path in enumerate(config.reward_functions):
        try:
            import_reward_function(path)
        except HfkitError as error:
            problems.append(Problem(f"reward_functions[{place}]", path, str(error)))
    if len({*config.reward_functions}) < len(config.reward_functions):
        problems.append(Problem("reward_functions", config.reward_functions, "names one twice: give it a weight"))
    if config.reward_columns and not config.reward_functions:
        remedy = "only reward_functions get columns: name one, or leave it out"
        problems.append(Problem("reward_columns", config.reward_columns, remedy))
    taken = [column for column in config.reward_columns if column in TAKEN]
    if taken:
        remedy = f"{taken[0]!r} is taken: map the column to another name with datasets: [{{columns: ...}}]"
        problems.append(Problem("reward_columns", config.reward_columns, remedy))
    parts = ["reward_model_path"] * (config.reward_model_path is not None) + config.reward_functions
    if config.reward_weights and len(config.reward_weights) != len(parts):
        remedy = f"expected {len(parts)}, one for each of: {', '.join(parts) or 'nothing'}"
        problems.append(Problem("reward_weights", config.reward_weights, remedy))
    return problems


def penalty_problems(config: PPOConfig) -> list[Problem]:
    """What is weighed against the reward, without its weight or without what it weighs."""
    problems = []
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if config.kl_target is not None and config.kl_coef == 0:
        problems.append(Problem("kl_target", config.kl_target, "kl_coef is 0, and 0 times anything stays 0: raise it"))
    if config.kl_target is not None and 0 < config.kl_horizon < batch:
        remedy = f"less than one batch ({batch} replies): kl_coef would jump; 10000 is common"
        problems.append(Problem("kl_horizon", config.kl_horizon, remedy))
    if config.ptx_coef > 0 and not config.ptx_datasets:
        problems.append(Problem("ptx_coef", config.ptx_coef, "weighs nothing: name ptx_datasets"))
    if config.ptx_datasets and config.ptx_coef == 0:
        problems.append(Problem("ptx_datasets", [entry.path for entry in config.ptx_datasets], "set ptx_coef above 0"))
    return problems


def best_problems(config: PPOConfig) -> list[Problem]:
    """A best checkpoint, or patience for a better one, without evaluations to tell."""
    if config.eval_strategy != "no" and has_held_out(config):
        return []
    remedy = "set eval_strategy, and eval_datasets or test_split_size: nothing else tells which is better"
    wanted = {
        "load_best_model_at_end": config.load_best_model_at_end,
        "early_stopping_patience": config.early_stopping_patience,
    }
    return [Problem(key, value, remedy) for key, value in wanted.items() if value]


def reward_problems(config: PPOConfig) -> list[Problem]:
    """Something must score; a reward model must be there, and its tokenizer and its embedding agree."""
    path = config.reward_model_path
    if path is None:
        remedy = "missing: a model from `hfkit reward`, or name reward_functions"
        problems = [] if config.reward_functions else [Problem("reward_model_path", None, remedy)]
        if config.min_reward_accuracy is not None:
            remedy = "has no effect without reward_model_path"
            problems.append(Problem("min_reward_accuracy", config.min_reward_accuracy, remedy))
        return problems
    wrong = path_problems("reward_model_path", path)
    return wrong or reward_tokenizer_problems(config) or accuracy_problems(config)


def accuracy_problems(config: PPOConfig) -> list[Problem]:
    """A reward model that ranks held-out pairs worse than it must, or of which that is not known."""
    least, path = config.min_reward_accuracy, config.reward_model_path
    if least is None:
        return []
    figures = recorded_pair_metrics(path, config.reward_model_revision)
    if not figures:
        remedy = f"how well {path} ranks held-out pairs is unknown: `hfkit evaluate {path} --datasets PAIRS` tells"
        return [Problem("min_reward_accuracy", least, remedy)]
    if figures["accuracy"] >= least:
        return []
    remedy = f"{path} ranks {figures['accuracy']:.3f} of the held-out pairs right: train a better one, or lower this"
    return [Problem("min_reward_accuracy", least, remedy)]


def reward_tokenizer_problems(config: PPOConfig) -> list[Problem]:
    """A reward model may read with a tokenizer of its own: one that can be read, with ids that it has weights for."""
    path = config.reward_model_path
    try:
        highest = max(load_reward_tokenizer(config).get_vocab().values())
        size = cached_config(path, config.reward_model_revision).get_text_config().vocab_size
    except Exception as error:  # whatever a library says of a folder's content
        return [Problem("reward_model_path", path, f"its tokenizer cannot be read: {reason(error)}")]
    if highest < size:
        return []
    remedy = f"its tokenizer has ids up to {highest}: its embedding ends at {size - 1}"
    return [Problem("reward_model_path", path, remedy)]
