"""Reads and validates all that the rounds of a pipeline run, before anything runs."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path

import hfkit.commands.label.checks as label_checks
import hfkit.evaluation.checks as evaluation_checks
from hfkit.config.evaluation import ArenaConfig, SampleConfig
from hfkit.config.labeling import LabelConfig, RoundsConfig
from hfkit.config.parsing import Layer, build, command_line, group_flags, load_config, read_flags
from hfkit.config.registry import STAGES, StageSpec
from hfkit.config.validation import top_level_key
from hfkit.core.errors import ConfigError, HfkitError, Problem
from hfkit.core.files import write_json_lines
from hfkit.stages.pipeline import parse_stages, stage_flags
from hfkit.stages.pipeline_file import Pipeline

ROUND_STAGES = {
    "trains a reward model": lambda spec: spec.makes == "reward model",
    "trains a policy on sampled responses": lambda spec: spec.samples_replies,
}
"""What the two stages of a round do, with a test of their specs."""
INHERITED = ("max_prompt_length", "response_length", "chat_template_kwargs", "system_prompt", "seed")
"""Keys of sampling and evaluation that have the RL stage's values by default."""
SET_BY_ROUNDS = ("models", "datasets", "output_dir")


@dataclass(frozen=True)
class RoundsPlan:
    """What runs.

    Attributes:
        root: folder of the outputs.
        before: command line of each stage that runs once, before the rounds.
        reward, policy: names of the stages of a round; `argvs` has their command lines without what changes by round.
        own_rows: the datasets of the reward model in addition to the labels.
        start: path of the first policy.
        sample, label, evaluate: configs without models, rows and folders; `evaluate` is None without an evaluation.
    """

    pipeline: Pipeline
    root: Path
    rounds: RoundsConfig
    before: dict[str, list[str]]
    reward: str
    policy: str
    argvs: dict[str, list[str]]
    own_rows: list[dict]
    start: str
    sample: SampleConfig
    label: LabelConfig
    evaluate: ArenaConfig | None


def plan_rounds(pipeline: Pipeline, root: Path, flags: list[str]) -> RoundsPlan:
    """Return the plan of a pipeline with rounds.

    Args:
        flags: as for `run_pipeline`, and those of rounds: `["--rounds.count", "3"]`.

    Raises:
        ConfigError: with the problems of all stages, of the judges and of the prompts.
    """
    problems: list[Problem] = []
    if os.environ.get("WORLD_SIZE", "1") != "1":
        problems.append(Problem("WORLD_SIZE", os.environ["WORLD_SIZE"], "rounds run in one process"))
    reward, policy = (find_one_stage(pipeline, what, test, problems) for what, test in ROUND_STAGES.items())
    rounds, flags = read_rounds(pipeline, flags, problems)
    if not (reward and policy and rounds):
        raise ConfigError(problems)
    key = next(one.key for one in STAGES[policy].inputs if reward in one.stages)
    given = {name: value for layer in pipeline.stages[policy] for name, value in (layer.content or {}).items()}
    if given.get(key) is not None:
        problems.append(Problem(f"{policy}.{key}", given[key], "each round trains a reward model: remove it"))
    try:
        argvs, configs, own_rows = parse_with_labels(pipeline, root, reward, flags)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    parts = configs_of_parts(rounds, configs[policy], problems)
    problems = problems or port_problems(rounds)
    if problems:
        raise ConfigError({problem.key: problem for problem in reversed(problems)}.values())
    before = {name: argv for name, argv in argvs.items() if name not in (reward, policy)}
    of_round = {name: argvs[name] for name in (reward, policy)}
    start = configs[policy].model_name_or_path
    return RoundsPlan(pipeline, root, rounds, before, reward, policy, of_round, own_rows, start, *parts)


def configs_of_parts(
    rounds: RoundsConfig, policy, problems: list[Problem]
) -> tuple[SampleConfig, LabelConfig, ArenaConfig | None]:
    """Return the configs of sampling, labeling and the evaluation; add their problems.

    Args:
        policy: config of the RL stage.
    """
    shared = {name: getattr(policy, name) for name in INHERITED if hasattr(policy, name)}
    own = {field.name: getattr(rounds, field.name) for field in fields(rounds)}
    own["prompts"] = rounds.prompts or policy.datasets
    models = [f"{name}={policy.model_name_or_path}" for name in "ab"]
    sampling = {**shared, **own, "models": models[:1], "reward_model": None}  # the judge scores, and nobody before it
    sample = section(SampleConfig, sampling, evaluation_checks.problems_of, problems)
    label = section(LabelConfig, {**shared, **own, "datasets": "later"}, label_checks.problems_of, problems)
    if not rounds.evaluate:
        return sample, label, None
    problems += [
        Problem(f"rounds.evaluate.{name}", rounds.evaluate[name], "the rounds set it: remove it")
        for name in SET_BY_ROUNDS
        if name in rounds.evaluate
    ]
    given = {**shared, "temperature": policy.temperature, **rounds.evaluate, "models": models}
    evaluate = section(ArenaConfig, given, evaluation_checks.problems_of, problems, "rounds.evaluate.")
    return sample, label, evaluate


def find_one_stage(
    pipeline: Pipeline, what: str, test: Callable[[StageSpec], bool], problems: list[Problem]
) -> str | None:
    """Return the one stage of a pipeline that does something, or add a problem if there is not exactly one."""
    possible = [name for name, spec in STAGES.items() if test(spec)]
    found = [name for name in possible if name in pipeline.stages]
    if len(found) == 1:
        return found[0]
    remedy = f"rounds need exactly one stage that {what}: {', '.join(possible)}"
    problems.append(Problem("stages", [*pipeline.stages], remedy))
    return None


def read_rounds(pipeline: Pipeline, flags: list[str], problems: list[Problem]) -> tuple[RoundsConfig | None, list[str]]:
    """Return the config of the rounds, None with problems if it is invalid; and the flags of the stages."""
    given = group_flags(flags, problems)
    own = [(key.removeprefix("rounds."), words) for key, words in given if key.startswith("rounds.")]
    others = command_line([(key, words) for key, words in given if not key.startswith("rounds.")])
    found: list[Problem] = []
    keys = read_flags(RoundsConfig, command_line(own), found)
    try:
        rounds = build(RoundsConfig, [*pipeline.rounds, Layer(keys)], found, None, rounds_problems)
    except ConfigError as error:
        problems += [problem.under("rounds.") for problem in error.problems]
        return None, others
    return rounds, others


def rounds_problems(rounds: RoundsConfig) -> list[Problem]:
    """Return the problems of the keys that only the rounds read."""
    problems = [] if rounds.count > 0 else [Problem("count", rounds.count, "must be above 0")]
    if rounds.num_samples < 2:
        problems.append(Problem("num_samples", rounds.num_samples, "must be above 1: the judge compares responses"))
    return problems


def port_problems(rounds: RoundsConfig) -> list[Problem]:
    """Return a problem if the page of people who judge cannot listen; the first round would find it after sampling."""
    if rounds.judge != label_checks.HUMAN:
        return []
    server = import_module("hfkit.commands.web.server")  # of an extra, which the checks of labeling have found
    try:
        server.open_socket(rounds.host, rounds.port).close()
    except HfkitError as error:
        return [Problem("rounds.port", rounds.port, str(error))]
    return []


def parse_with_labels(
    pipeline: Pipeline, root: Path, reward: str, flags: list[str]
) -> tuple[dict[str, list[str]], dict[str, object], list[dict]]:
    """Return command line and config of each stage, and the datasets in the reward model's config.

    If it names no datasets, one ranking stands for the labels, so that the other keys can be checked.
    """
    layers = [layer.content["datasets"] for layer in pipeline.stages[reward] if "datasets" in (layer.content or {})]
    in_flags = any(key in ("datasets", f"{reward}.datasets") for key, _ in group_flags(flags, []))
    has_own = in_flags or bool(layers and layers[-1])
    argvs = stage_flags(pipeline, root, flags)
    if has_own:
        configs = parse_stages(pipeline, argvs, root)
        return argvs, configs, [asdict(entry) for entry in configs[reward].datasets]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "labels.jsonl"
        write_json_lines(rows, [{"prompt": "Hi.", "replies": ["Hello.", "No."], "ranks": [1, 2]}])
        checked = {**argvs, reward: with_keys(argvs[reward], datasets=str(rows))}
        return argvs, parse_stages(pipeline, checked, root), []


def section(config_class: type, given: dict, check: Callable, problems: list[Problem], prefix: str = "rounds."):
    """Return a config of sampling, labeling or the evaluation, or add its problems.

    Keys of others are left out, and what the rounds set is not checked, because it does not exist yet.
    """
    known = {field.name for field in fields(config_class)}
    values = {name: value for name, value in given.items() if name in known or prefix != "rounds."}
    try:
        return load_config(
            config_class,
            {name: value for name, value in values.items() if name != "output_dir"},
            lambda config: [one for one in check(config) if top_level_key(one.key) not in SET_BY_ROUNDS],
        )
    except ConfigError as error:
        problems += [problem.under(prefix) for problem in error.problems]
        return None


def with_keys(argv: list[str], **keys: object) -> list[str]:
    """Return a command line in which `keys` replace those that it has; lists are written as JSON."""
    kept = [flag for flag in group_flags(argv, []) if flag[0].removeprefix("no_") not in keys]
    new = [(key, [value if isinstance(value, str) else json.dumps(value)]) for key, value in keys.items()]
    return command_line([*kept, *new])
