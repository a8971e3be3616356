"""Several stages in a row, each into its own folder, each output handed to the next."""

from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

from accelerate.utils import release_memory

from hfkit.config.fields import HubFields
from hfkit.config.parsing import Check, command_line, group_flags, parse
from hfkit.config.registry import STAGES
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.yaml import read_yaml
from hfkit.stages.checks import problems_of


def run_pipeline(path: str | Path, output_dir: str | None = None, flags: list[str] | None = None) -> Path:
    """Runs a pipeline and returns its folder.

    Args:
        path: the pipeline's YAML.
        output_dir: in place of the YAML's.
        flags: `["--seed", "1", "--sft.learning_rate", "1e-4"]`.

    Raises:
        ConfigError: before anything runs, with the problems of every stage's config.
    """
    pipeline = read_pipeline(Path(path))
    root = Path(output_dir or pipeline["output_dir"])
    argvs = stage_flags(pipeline, Path(path).parent, root, flags or [])
    check_all(argvs, root)

    for place, (stage, argv) in enumerate(argvs.items(), 1):
        say(f"== {place}/{len(argvs)} {stage}")
        config = parse_stage(stage, argv)
        import_module(STAGES[stage].module).main(config)
        release_memory()  # trainers refer to themselves, and a GPU may have no room for the models of two stages
    return root


def read_pipeline(path: Path) -> dict:
    """The pipeline's YAML, checked: known stages, files that are there.

    Raises:
        ConfigError: with every problem.
    """
    problems: list[Problem] = []
    pipeline = read_yaml(str(path), problems)
    if pipeline is None:
        raise ConfigError(problems, source=str(path))
    problems += [
        Problem(key, value, "a pipeline has output_dir and stages")
        for key, value in pipeline.items()
        if key not in ("output_dir", "stages")
    ]
    stages = pipeline.get("stages")
    if not isinstance(pipeline.get("output_dir"), str):
        problems.append(Problem("output_dir", pipeline.get("output_dir"), "the folder that the stages write into"))
    if not isinstance(stages, dict) or not stages:
        problems.append(Problem("stages", stages, f"a mapping from stage to its YAML; stages: {', '.join(STAGES)}"))
        stages = {}
    for stage, file in stages.items():
        if stage not in STAGES:
            problems.append(Problem(f"stages.{stage}", file, f"stages are {', '.join(STAGES)}"))
        elif not (path.parent / str(file)).is_file():
            problems.append(Problem(f"stages.{stage}", file, f"no such file in {path.parent}"))
    if problems:
        raise ConfigError(problems, source=str(path))
    return pipeline


def stage_flags(pipeline: dict, beside: Path, root: Path, flags: list[str]) -> dict[str, list[str]]:
    """The command line of each stage, in the order of the stages.

    Raises:
        ConfigError: a flag for a stage that the pipeline does not have.
    """
    problems: list[Problem] = []
    flags_of_all = group_flags(flags, problems)
    stages = [stage for stage in STAGES if stage in pipeline["stages"]]
    by_stage = {}
    for stage in stages:
        file = beside / pipeline["stages"][stage]
        by_stage[stage] = [("config", [str(file)]), ("output_dir", [str(root / stage)]), *resume(stage)]
        own = own_keys(file)
        for given in STAGES[stage].inputs:
            if given.stage in stages and not {given.key, given.unless} & own:
                by_stage[stage].append((given.key, [str(root / given.stage)]))
    for key, words in flags_of_all:
        name, _, own = key.partition(".")
        if not own:
            for stage, of_stage in by_stage.items():
                of_stage += flag_of(stage, key, words)
        elif name not in by_stage:
            problems.append(Problem(f"--{key}", " ".join(words), f"the pipeline has: {', '.join(stages)}"))
        elif own == "output_dir":
            problems.append(Problem(f"--{key}", " ".join(words), f"the pipeline puts it into {root / name}"))
        else:
            # in place of the same flag for all stages, and of what an earlier stage hands on
            others = [flag for flag in by_stage[name] if flag[0].removeprefix("no_") != own.removeprefix("no_")]
            by_stage[name] = [*others, (own, words)]
    if problems:
        raise ConfigError(problems)
    return {stage: command_line(of_stage) for stage, of_stage in by_stage.items()}


def flag_of(stage: str, key: str, words: list[str]) -> list[tuple[str, list[str]]]:
    """A flag of all stages as one of them gets it.

    What is said of the Hub is for the models, since each has the tokenizer with it; its name there ends in the stage's.
    """
    if key not in {field.name for field in fields(HubFields)}:
        return [(key, words)]
    if STAGES[stage].makes == "tokenizer":
        return []
    return [(key, [f"{' '.join(words)}-{stage}"] if key == "hub_model_id" else words)]


def resume(stage: str) -> list[tuple[str, list[str]]]:
    """An interrupted stage of a pipeline always goes on."""
    return [("resume_from_checkpoint", [])] if hasattr(STAGES[stage].config_class, "resume_from_checkpoint") else []


def own_keys(file: Path) -> set[str]:
    """The keys that a stage's YAML sets; its faults are for its own parsing to tell."""
    return set(read_yaml(str(file), []) or {})


def parse_stage(stage: str, argv: list[str], check: Check = problems_of):
    """The config of a stage from its command line."""
    return parse(STAGES[stage].config_class, argv, f"hfkit {stage}", stage, check)


def check_all(argvs: dict[str, list[str]], root: Path) -> None:
    """Parses every stage's config before any runs; what earlier stages will make need not be there yet."""
    problems = []
    for stage, argv in argvs.items():
        try:
            parse_stage(stage, argv, check_without(pending_keys(stage, argvs, root)))
        except ConfigError as error:
            problems += [problem.under(f"{stage}.") for problem in error.problems]
    if problems:
        raise ConfigError(problems)


def pending_keys(stage: str, argvs: dict[str, list[str]], root: Path) -> list[str]:
    """The keys of a stage that name the folder of an earlier one, which need not be there yet."""
    earlier = [str(root / other) for other in list(argvs)[: list(argvs).index(stage)]]
    given = group_flags(argvs[stage], [])
    keys = [one.key for one in STAGES[stage].inputs]
    return [key for key in keys if any((key, [folder]) in given for folder in earlier)]


def check_without(pending: list[str]) -> Check:
    """The checks of a config, less what they say of the keys whose folders an earlier stage will make."""

    def check(config) -> list[Problem]:
        # absolute, so that a folder is not taken for a Hub id
        folders = {key: str(Path(getattr(config, key)).absolute()) for key in pending}
        return [problem for problem in problems_of(replace(config, **folders)) if problem.key not in pending]

    return check
