"""Runs a pipeline: stages one after another, each from the output of earlier ones."""

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

from accelerate.utils import release_memory

from hfkit.config.fields import HubFields, ModelFields
from hfkit.config.parsing import Check, Layer, command_line, group_flags, parse
from hfkit.config.registry import STAGES
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, Kind, Problem
from hfkit.stages.checks.architecture import (
    copy_lengths,
    find_model_config,
    find_reward_config,
    reward_length_problems,
)
from hfkit.stages.checks.models import pending_problems
from hfkit.stages.checks.stage import problems_of
from hfkit.stages.pipeline_file import Pipeline, read_pipeline


def run_pipeline(path: str | Path, output_dir: str | None = None, flags: list[str] | None = None) -> Path:
    """Run a pipeline and return its folder.

    Args:
        path: the pipeline's YAML.
        output_dir: folder to write to instead of the YAML's `output_dir`.
        flags: flags for all stages or for one, as in `["--seed", "1", "--sft.learning_rate", "1e-4"]`.

    Raises:
        ConfigError: before any stage runs, with the problems of all stages; or the pipeline has rounds.
    """
    path = Path(path).expanduser()
    pipeline = read_pipeline(path)
    if pipeline.rounds:
        raise ConfigError([Problem("rounds", "given", "only `hfkit run` runs rounds")], str(path))
    root = Path(output_dir or pipeline.output_dir)
    argvs = stage_flags(pipeline, root, flags or [])
    parse_stages(pipeline, argvs, root)
    for number, (stage, argv) in enumerate(argvs.items(), 1):
        say(f"== {number}/{len(argvs)} {stage}")
        run_parsed(stage, argv, pipeline.stages[stage])
    return root


def run_parsed(stage: str, argv: list[str], layers: Sequence[Layer]) -> None:
    """Run a stage with the config of its layers and its command line, and free its memory."""
    import_module(STAGES[stage].module).main(parse_stage(stage, argv, layers))
    release_memory()  # trainers are in reference cycles, and a GPU may not have room for the models of two stages


def stage_flags(pipeline: Pipeline, root: Path, flags: list[str]) -> dict[str, list[str]]:
    """Return the command line of each stage, in running order.

    Args:
        root: folder of the pipeline's outputs.
        flags: as for `run_pipeline`.

    Raises:
        ConfigError: a flag is malformed, or for a stage that the pipeline does not have.
    """
    problems: list[Problem] = []
    given_flags = group_flags(flags, problems)
    stages = [stage for stage in STAGES if stage in pipeline.stages]
    by_stage = {}
    for stage in stages:
        spec = STAGES[stage]
        by_stage[stage] = [("output_dir", [str(root / stage)])]
        if hasattr(spec.config_class, "resume_from_checkpoint"):  # a pipeline always resumes its stages
            by_stage[stage].append(("resume_from_checkpoint", []))
        in_yaml = {key for layer in pipeline.stages[stage] for key in layer.content or {}}
        for wanted in spec.inputs:
            made_by = next((earlier for earlier in wanted.stages if earlier in stages), None)
            if made_by and not {wanted.key, wanted.unless} & in_yaml:
                by_stage[stage].append((wanted.key, [str(root / made_by)]))
    for key, words in given_flags:
        stage, _, own_key = key.partition(".")
        if not own_key:
            for name, of_stage in by_stage.items():
                of_stage += flags_for(name, key, words)
        elif stage not in by_stage:
            problems.append(Problem(f"--{key}", " ".join(words), f"the pipeline's stages are: {', '.join(stages)}"))
        elif own_key == "output_dir":
            problems.append(Problem(f"--{key}", " ".join(words), f"the pipeline writes to {root / stage}: remove it"))
        else:
            # replaces the flag for all stages, and the output of an earlier stage
            kept = [flag for flag in by_stage[stage] if flag[0].removeprefix("no_") != own_key.removeprefix("no_")]
            by_stage[stage] = [*kept, (own_key, words)]
    if problems:
        raise ConfigError(problems)
    return {stage: command_line(of_stage) for stage, of_stage in by_stage.items()}


def flags_for(stage: str, key: str, words: list[str]) -> list[tuple[str, list[str]]]:
    """Return the words of a flag for all stages that one stage gets.

    Flags for the Hub apply to models only, because each model is pushed with its tokenizer. The stage's name is
    appended to `hub_model_id`.
    """
    if key not in {field.name for field in fields(HubFields)}:
        return [(key, words)]
    if STAGES[stage].makes == "tokenizer":
        return []
    return [(key, [f"{' '.join(words)}-{stage}"] if key == "hub_model_id" else words)]


def parse_stage(stage: str, argv: list[str], layers: Sequence[Layer] = (), check: Check = problems_of):
    """Return the config of a stage from its layers and its command line."""
    return parse(STAGES[stage].config_class, argv, f"hfkit {stage}", stage, check, layers)


def parse_stages(
    pipeline: Pipeline, argvs: dict[str, list[str]], root: Path, ignored: Collection[Kind] = ()
) -> dict[str, object]:
    """Return the configs of a pipeline by stage, before any stage runs, without `ignored` problems.

    Args:
        argvs: the command lines of the stages.

    Raises:
        ConfigError: with the problems of all stages.
    """
    configs, problems = {}, []
    for stage, argv in argvs.items():
        try:
            check = check_except(pending_keys(stage, argvs, root), ignored)
            configs[stage] = parse_stage(stage, argv, pipeline.stages[stage], check)
        except ConfigError as error:
            problems += [problem.under(f"{stage}.") for problem in error.problems]
    reported = {problem.key for problem in problems}
    problems += [problem for problem in later_problems(configs, root) if problem.key not in reported]
    if problems:
        raise ConfigError(problems)
    return configs


def later_problems(configs: dict[str, object], root: Path) -> list[Problem]:
    """Return the problems of stages with the models that earlier stages will make.

    Their architecture is that of the model that the first stage starts from or makes.
    """
    problems, made = [], {}
    for stage, config in configs.items():
        start, scorer = (getattr(config, key, None) for key in ("model_name_or_path", "reward_model_path"))
        found = pending_problems(config, made[start]) if start in made else []
        own = made[start] if start in made else find_model_config(config)
        if start in made or scorer in made:
            found += reward_length_problems(config, own, made.get(scorer, find_reward_config(config)))
        problems += [problem.under(f"{stage}.") for problem in found]
        if isinstance(config, ModelFields):
            made[str(root / stage)] = own
    return problems


def pending_keys(stage: str, argvs: dict[str, list[str]], root: Path) -> list[str]:
    """Return the keys of a stage that name the output folder of an earlier stage, which may not exist yet."""
    earlier = [str(root / other) for other in list(argvs)[: list(argvs).index(stage)]]
    given = group_flags(argvs[stage], [])
    return [one.key for one in STAGES[stage].inputs if any((one.key, [folder]) in given for folder in earlier)]


def check_except(pending: list[str], ignored: Collection[Kind] = ()) -> Check:
    """Return a check of a config that leaves out problems of `pending` keys and of ignored kinds."""

    def check(config) -> list[Problem]:
        # absolute, so that a folder that does not exist yet is not mistaken for a Hub id
        folders = {key: str(Path(getattr(config, key)).absolute()) for key in pending}
        checked = replace(config, **folders)
        found = problems_of(checked)
        copy_lengths(checked, config)
        return [problem for problem in found if problem.key not in pending and problem.kind not in ignored]

    return check
