"""What is wrong with a config of `hfkit evaluate` or `hfkit arena`, before any weight is loaded."""

from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

from hfkit.config.evaluation import JUDGE_KINDS, ArenaConfig, EvaluateConfig, ReplyFields, split_name
from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError, Problem
from hfkit.data.cards import entries_of
from hfkit.models.loading import is_classifier
from hfkit.rlhf.reward_functions import import_reward_function
from hfkit.stages.checks.data import data_problems
from hfkit.stages.checks.files import folder_problems
from hfkit.stages.checks.models import weights_problems

POSITIVE_KEYS = (
    *("max_rows", "max_prompts", "max_prompt_length", "response_length", "per_device_eval_batch_size"),
    *("resamples", "diversity_prompts", "diversity_samples"),
)


def problems_of(config: EvaluateConfig | ArenaConfig) -> list[Problem]:
    """Return every problem of a config; reads configs and tokenizers, never weights."""
    return evaluate_problems(config) if isinstance(config, EvaluateConfig) else arena_problems(config)


def reply_problems(config: ReplyFields) -> list[Problem]:
    """Numbers out of range."""
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name in POSITIVE_KEYS}
    problems = [Problem(key, value, "must be above 0") for key, value in values.items() if value <= 0]
    if config.temperature < 0:
        problems.append(Problem("temperature", config.temperature, "must not be negative"))
    return problems


def evaluate_problems(config: EvaluateConfig) -> list[Problem]:
    """As of its fields; models that are not there or of two kinds, rows that are not there."""
    model, kinds = config.model_name_or_path, {}
    problems = reply_problems(config)
    for key, (path, revision) in config.models().items():
        wrong = weights_problems(key, path)
        problems += wrong
        if not wrong:
            kinds[key] = is_classifier(path, revision)
    other = [key for key, kind in kinds.items() if kind != kinds.get("model_name_or_path", kind)]
    problems += [Problem(key, config.models()[key][0], f"a model of another kind than {model}") for key in other]
    for key in ("reference", "reward_model"):
        if getattr(config, key) is None:
            continue
        if kinds.get("model_name_or_path"):
            problems.append(Problem(key, getattr(config, key), "is for language models, and this is a reward model"))
        problems += kind_problems(key, getattr(config, key), is_reward=key == "reward_model")
    if config.output_dir is not None or Path(model).is_dir():
        problems += folder_problems(SimpleNamespace(output_dir=config.output_dir or model))
    elif "model_name_or_path" in kinds:
        problems.append(Problem("output_dir", None, "name a folder: a Hub model has none"))
    problems += name_problems("against", [model, *config.against])
    return problems + entry_problems("datasets", config.datasets) + entry_problems("prompts", config.prompts)


def arena_problems(config: ArenaConfig) -> list[Problem]:
    """As of its fields; models or a judge that are not there or of another kind."""
    problems = reply_problems(config) + folder_problems(config)
    for place, given in enumerate(config.models):
        problems += kind_problems(f"models[{place}]", split_name(given)[1], is_reward=False)
    if len(config.models) < 2:
        problems.append(Problem("models", config.models, "name two or more: hfkit arena A B"))
    problems += name_problems("models", config.models) + entry_problems("prompts", config.prompts)
    if any(temperature <= 0 for temperature in config.diversity_temperatures):
        problems.append(Problem("diversity_temperatures", config.diversity_temperatures, "each must be above 0"))
    return problems + judge_problems(config)


def judge_problems(config: ArenaConfig) -> list[Problem]:
    """A judge without what it needs, or with what it does not read."""
    needed = {"reward": "reward_model", "function": "reward_function"}.get(config.judge)
    problems = [
        Problem(key, getattr(config, key), f"has no effect with judge: {config.judge}")
        for key in ("reward_model", "reward_function")
        if key != needed and getattr(config, key) is not None
    ]
    if config.reward_columns and config.judge != "function":
        problems.append(Problem("reward_columns", config.reward_columns, "only reward_function gets columns"))
    if needed and getattr(config, needed) is None:
        return [*problems, Problem(needed, None, f"missing: what judges with judge: {config.judge}")]
    if config.judge == "function":
        try:
            import_reward_function(config.reward_function)
        except HfkitError as error:
            problems.append(Problem("reward_function", config.reward_function, str(error)))
    if config.judge == "reward":
        problems += kind_problems("reward_model", config.reward_model, is_reward=True)
    if config.judge not in JUDGE_KINDS:
        problems += kind_problems("judge", config.judge, is_reward=False)
    return problems


def kind_problems(key: str, path: str, is_reward: bool) -> list[Problem]:
    """A model that is not there, or of the other kind."""
    wrong = weights_problems(key, path)
    if wrong or is_classifier(path, "main") == is_reward:
        return wrong
    if is_reward:
        return [Problem(key, path, "no reward model, which has a score head: train one with `hfkit reward`")]
    return [Problem(key, path, "a reward model, which gives no replies: name a language model")]


def name_problems(key: str, given: list[str]) -> list[Problem]:
    """Models that would stand under one name in the tables."""
    counts = Counter(split_name(one)[0] for one in given)
    return [
        Problem(key, name, f"is the name of {count} models: write them as NAME=PATH")
        for name, count in counts.items()
        if count > 1
    ]


def entry_problems(key: str, given: str | list[DatasetEntry]) -> list[Problem]:
    """Data sets that are not there, or that are asked for more than their rows."""
    if not given:
        return []
    entries = entries_of(given)
    problems = [
        Problem(problem.key.replace("datasets", key, 1), problem.value, problem.remedy)
        for problem in data_problems(SimpleNamespace(datasets=entries))
    ]
    return problems + [
        Problem(f"{key}[{place}].{name}", getattr(entry, name), "every row is taken once here; rows caps them")
        for place, entry in enumerate(entries)
        for name in ("weight", "epochs", "tokens")
        if getattr(entry, name) is not None
    ]
