"""Validates what scores responses: reward models, reward functions, their weights and columns."""

from hfkit.config.online import OnlineConfig
from hfkit.core.errors import HfkitError, Problem, kind_of_error, reason
from hfkit.models.fitting import vocabulary_fault
from hfkit.models.loading import cached_config, is_classifier
from hfkit.models.reward_sources import reward_fault
from hfkit.models.tokenizers import cached_tokenizer
from hfkit.rlhf.reward_functions import check_reward_function
from hfkit.rlhf.reward_quality import recorded_pair_metrics
from hfkit.rlhf.rewards import load_reward_tokenizer
from hfkit.stages.checks.architecture import (
    find_model_config,
    find_reward_config,
    reward_length_problems,
)
from hfkit.stages.checks.models import revision_problems, weights_problems
from hfkit.stages.checks.rules import broken_rules

RESERVED_COLUMNS = ("prompt", "prompts", "replies", "input_ids", "length", "dropped", "faults", "cut")
"""Names that `reward_columns` must not have."""
REWARD_KEYS = ("reward_model_path", "reward_model_revision")


def reward_problems(config: OnlineConfig) -> list[Problem]:
    """Return the problems of what scores responses: nothing does, a function cannot be imported, a model is unfit."""
    problems, path = broken_rules(config, function_rules(config)), config.reward_model_path
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


def accuracy_problems(config: OnlineConfig) -> list[Problem]:
    """Return a problem if the reward model's accuracy on held-out pairs is unknown, or below `min_reward_accuracy`."""
    minimum, path = config.min_reward_accuracy, config.reward_model_path
    if minimum is None:
        return []
    metrics = recorded_pair_metrics(path, config.reward_model_revision)
    if metrics and metrics["accuracy"] >= minimum:
        return []
    remedy = f"it is unknown how well {path} ranks held-out pairs: run `hfkit evaluate {path} --datasets PAIRS`"
    if metrics:
        measured = f"{path} ranks {metrics['accuracy']:.3f} of the held-out pairs right"
        remedy = f"{measured}: train a better reward model, or lower this"
    return [Problem("min_reward_accuracy", minimum, remedy, keys=REWARD_KEYS)]


def reward_tokenizer_problems(config: OnlineConfig) -> list[Problem]:
    """Return a problem if the reward model's tokenizer cannot be read, or has ids beyond the model's embedding."""
    path = config.reward_model_path
    try:
        tokenizer = load_reward_tokenizer(config, cached_tokenizer)
        size = cached_config(path, config.reward_model_revision).get_text_config().vocab_size
    except Exception as error:  # libraries raise errors of any kind for a broken folder
        return [Problem("reward_model_path", path, f"its tokenizer cannot be read: {reason(error)}", keys=REWARD_KEYS)]
    fault = vocabulary_fault(path, tokenizer, size)
    return [Problem("reward_model_path", path, fault, keys=REWARD_KEYS)] if fault else []


def function_rules(config: OnlineConfig) -> list[tuple]:
    """Return the rules of `broken_rules` for reward functions: each is named once; weights and columns fit them."""
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
        (weights and not any(weights), "reward_weights", "all are 0: nothing would be learned"),
        (weights and len(weights) != len(parts), "reward_weights", count, "reward_model_path", "reward_functions"),
    ]
