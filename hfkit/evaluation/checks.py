"""Validates a config of `hfkit evaluate`, `arena`, `sample` or `bench` before any weights are loaded."""

from collections import Counter
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from hfkit.config.evaluation import (
    JUDGE_KINDS,
    ArenaConfig,
    BenchConfig,
    EvaluateConfig,
    ReplyFields,
    SampleConfig,
    split_name,
)
from hfkit.config.validation import default_of
from hfkit.core.errors import MISSING, HfkitError, Kind, Problem
from hfkit.core.hub_retry import HubError
from hfkit.core.missing_paths import no_such
from hfkit.evaluation.answers import answer_extractor
from hfkit.evaluation.bench_models import bench_models
from hfkit.evaluation.key_checks import KEYS_OF_JUDGES, count_problems, entry_problems, judge_key_problems
from hfkit.models.engine_support import engine_fault
from hfkit.models.loading import cached_config, is_classifier
from hfkit.models.quantization import quantization_as_trained
from hfkit.models.reward_sources import reward_fault
from hfkit.rlhf.reward_functions import check_reward_function
from hfkit.stages.checks.files import folder_problems
from hfkit.stages.checks.models import revision_problems, weights_problems
from hfkit.stages.checks.rules import broken_rules

REPLY_KEYS = (
    *("max_prompts", "max_prompt_length", "response_length", "temperature", "chat_template_kwargs", "prompts"),
    *("system_prompt", "reference", "reward_model", "rollout_engine"),
)
"""The keys that only an evaluation of responses reads."""


def problems_of(config: EvaluateConfig | ArenaConfig | SampleConfig | BenchConfig) -> list[Problem]:
    """Return every problem of a config; only configs are read, never weights."""
    checks = {
        ArenaConfig: arena_problems,
        BenchConfig: bench_problems,
        EvaluateConfig: evaluate_problems,
        SampleConfig: sample_problems,
    }
    return next(check for kind, check in checks.items() if isinstance(config, kind))(config)


def bench_problems(config: BenchConfig) -> list[Problem]:
    """Return every problem of a config of `hfkit bench`."""
    problems = count_problems(config) + folder_problems(config)
    if find_spec("lm_eval") is None:
        remedy = "lm-evaluation-harness is not installed: pip install 'hfkit[bench]'"
        problems.append(Problem("lm_eval", MISSING, remedy, kind=Kind.NOT_HERE))
    models = bench_models(config.models)
    if not models:
        problems.append(Problem("models", config.models, "name one or more: hfkit bench MODEL --tasks NAME"))
    for name, path in models:
        problems += kind_problems(f"models[{name}]", path, is_reward=False)
    problems += name_problems("models", [f"{name}={path}" for name, path in models])
    if not config.tasks:
        problems.append(Problem("tasks", config.tasks, "name one or more: --tasks NAME, or --tasks FILE.yaml"))
    for task in config.tasks:
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            problems.append(Problem("tasks", task, no_such("file", task), kind=Kind.NO_SUCH_FILE))
    if config.include_path is not None and not Path(config.include_path).is_dir():
        remedy = "not a folder: name the folder of your tasks' YAML files"
        problems.append(Problem("include_path", config.include_path, remedy, kind=Kind.NO_SUCH_FILE))
    if config.num_fewshot is not None and config.num_fewshot < 0:
        problems.append(Problem("num_fewshot", config.num_fewshot, "must not be negative"))
    return problems


def reply_problems(config: ReplyFields) -> list[Problem]:
    """Return problems of numbers outside their range."""
    problems = count_problems(config)
    if config.temperature < 0:
        problems.append(Problem("temperature", config.temperature, "must not be negative"))
    return problems


def evaluate_problems(config: EvaluateConfig) -> list[Problem]:
    """Return every problem of a config of `hfkit evaluate`."""
    model, model_key = config.model_name_or_path, ("model_name_or_path",)
    problems = reply_problems(config) + revision_problems(
        "model_revision", config.model_revision, "model_name_or_path", split_name(model)[1]
    )
    kinds = find_reward_models(config, problems)
    if kinds.get("model_name_or_path"):
        changed = [field.name for field in fields(config) if getattr(config, field.name) != default_of(field)]
        remedy = f"has no effect: {model} is a reward model and does not generate responses"
        problems += broken_rules(config, [(True, key, remedy, *model_key) for key in changed if key in REPLY_KEYS])
    for key in ("reference", "reward_model"):
        if (path := getattr(config, key)) is not None:
            problems += kind_problems(key, path, is_reward=key == "reward_model")
    writers = [(path, revision) for key, (_, path, revision) in config.models().items() if kinds.get(key) is False]
    problems += engine_problems(config, writers)
    if config.output_dir is not None or Path(model).is_dir():
        problems += folder_problems(SimpleNamespace(output_dir=config.output_dir or model))
    elif "model_name_or_path" in kinds:
        problems.append(Problem("output_dir", None, "missing: a model on the Hub has no folder", keys=model_key))
    problems += name_problems("against", [model, *config.against], keys=model_key)
    return problems + entry_problems("datasets", config.datasets) + entry_problems("prompts", config.prompts)


def find_reward_models(config: EvaluateConfig, problems: list[Problem]) -> dict[str, bool]:
    """Return whether each model is a reward model, by its key; add problems of models that cannot be compared."""
    kinds: dict[str, bool] = {}
    for key, (_, path, revision) in config.models().items():
        if found := weights_problems(key, path):
            problems += found
            continue
        kinds[key] = is_classifier(path, revision)
        if kinds[key] and (error := reward_fault(path, revision)):
            problems.append(Problem(key, path, str(error)))
        if kinds[key] != kinds.get("model_name_or_path", kinds[key]):
            remedy = f"only one of it and {config.model_name_or_path} is a reward model: compare models of one kind"
            problems.append(Problem(key, path, remedy, keys=("model_name_or_path",)))
    return kinds


def arena_problems(config: ArenaConfig) -> list[Problem]:
    """Return every problem of a config of `hfkit arena`."""
    problems = reply_problems(config) + folder_problems(config) + writer_problems(config)
    if len(config.models) < 2:
        problems.append(Problem("models", config.models, "name two or more: hfkit arena A B"))
    if any(temperature <= 0 for temperature in config.diversity_temperatures):
        problems.append(Problem("diversity_temperatures", config.diversity_temperatures, "each must be above 0"))
    return problems + judge_problems(config)


def sample_problems(config: SampleConfig) -> list[Problem]:
    """Return every problem of a config of `hfkit sample`."""
    problems = reply_problems(config) + folder_problems(config) + writer_problems(config)
    if not config.models:
        problems.append(Problem("models", config.models, "name one or more: hfkit sample MODEL"))
    if any(temperature < 0 for temperature in config.temperatures):
        problems.append(Problem("temperatures", config.temperatures, "must not be negative"))
    if config.num_samples > 1 and 0 in (config.temperatures or [config.temperature]):
        problems.append(Problem("temperature", 0, "greedy responses are all the same: set num_samples: 1, or raise it"))
    if config.best and config.reward_model is None:
        problems.append(Problem("reward_model", None, "missing: --best keeps the response that it scores highest"))
    if config.reward_model is not None:
        problems += kind_problems("reward_model", config.reward_model, is_reward=True)
    if config.vote is not None:
        try:
            answer_extractor(config.vote)
        except HfkitError as error:
            problems.append(Problem("vote", config.vote, str(error)))
    return problems


def writer_problems(config: ArenaConfig | SampleConfig) -> list[Problem]:
    """Return problems of the models that respond, of their names, and of their prompts."""
    problems = []
    for index, given in enumerate(config.models):
        found = kind_problems(f"models[{index}]", split_name(given)[1], is_reward=False)
        problems += found or engine_problems(config, [(split_name(given)[1], "main")])
    return problems + name_problems("models", config.models) + entry_problems("prompts", config.prompts)


def engine_problems(config: ReplyFields, models: list[tuple[str, str]]) -> list[Problem]:
    """Return problems of an engine that cannot sample from one of the models, each a path and a revision."""
    problems, engine = [], config.rollout_engine
    if engine == "generate":  # supports every model
        return []
    for path, revision in models:
        quantization = quantization_as_trained(path, revision)
        bits = quantization and (4 if quantization.load_in_4bit else 8)
        try:
            fault = engine_fault(engine, cached_config(path, revision), bits)
        except HfkitError as error:
            fault = str(error)
        if fault:
            problems.append(Problem("rollout_engine", engine, f"of {path}: {fault}"))
    return problems


def judge_problems(config: ArenaConfig) -> list[Problem]:
    """Return problems of the keys of a judge, and of its function or model."""
    problems = judge_key_problems(config)
    if config.judge in KEYS_OF_JUDGES and getattr(config, KEYS_OF_JUDGES[config.judge]) is None:
        return problems
    if config.judge == "function":
        try:
            check_reward_function(config.reward_function, config.reward_columns)
        except HfkitError as error:
            problems.append(Problem("reward_function", config.reward_function, str(error)))
    if config.judge == "reward":
        problems += kind_problems("reward_model", config.reward_model, is_reward=True)
    if config.judge not in JUDGE_KINDS:
        problems += kind_problems("judge", config.judge, is_reward=False)
    return problems


def kind_problems(key: str, path: str, is_reward: bool) -> list[Problem]:
    """Return problems of a model that does not exist or is of the wrong kind: language model or reward model."""
    problems = weights_problems(key, path)
    if problems:
        return problems
    try:
        is_of_kind = is_classifier(path, "main") == is_reward
    except HubError as error:  # neither in the cache nor on a Hub that answers
        return [Problem(key, path, str(error))]
    if is_of_kind:
        error = reward_fault(path) if is_reward else None
        return [Problem(key, path, str(error))] if error else []
    if is_reward:
        return [Problem(key, path, "not a reward model, which has a score head: train one with `hfkit reward`")]
    remedy = ", or judge with it: judge: reward, and reward_model" if key == "judge" else ""
    return [Problem(key, path, f"a reward model, which does not generate responses: name a language model{remedy}")]


def name_problems(key: str, given: list[str], keys: tuple[str, ...] = ()) -> list[Problem]:
    """Return problems of models that have the same name in tables; further `keys` name some of them too."""
    counts = Counter(split_name(one)[0] for one in given)
    return [
        Problem(key, name, f"is the name of {count} models: write them as NAME=PATH", keys=keys)
        for name, count in counts.items()
        if count > 1
    ]
