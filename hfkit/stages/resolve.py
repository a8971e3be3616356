"""Which stages a YAML is for, each with its config: one stage's, or those of a pipeline, before any of them has run."""

from collections.abc import Sequence
from dataclasses import fields as fields_of
from pathlib import Path

from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, ConfigError, Kind, Problem
from hfkit.core.yaml import read_yaml
from hfkit.stages.pipeline import check_without, parse_stage, pending_keys, read_pipeline, stage_flags


def read_configs(
    path: str, stage: str | None, output_dir: str | None, flags: list[str], among: Sequence[str] = tuple(STAGES)
) -> dict[str, object]:
    """The configs of a YAML by their stages: those of a pipeline, or one.

    Args:
        path: a stage's YAML or a pipeline's.
        stage: which stage it is for, where that cannot be told from its name and keys.
        output_dir: in place of the YAML's.
        flags: `["--seed", "1"]`, in a pipeline also `["--sft.learning_rate", "1e-4"]`.
        among: the stages that a YAML of one stage may be for.

    Raises:
        ConfigError: it cannot be read, its stage cannot be told, or its config has problems.
    """
    problems: list[Problem] = []
    content = read_yaml(path, problems)
    if content is None:
        raise ConfigError(problems, source=path)
    if "stages" in content:
        if stage is not None:
            raise ConfigError([Problem("--stage", stage, "a pipeline has its own stages: leave it out")])
        return pipeline_configs(Path(path), output_dir, flags)
    name = stage or stage_of(path, content, among)
    if name not in among:
        raise ConfigError([Problem("stage", name, f"expected one of: {', '.join(among)}")], source=path)
    argv = ["--config", path, *flags, *(["--output_dir", output_dir] if output_dir else [])]
    if output_dir is None and "output_dir" not in content:
        argv += ["--output_dir", "."]  # nothing is written
    return {name: read_config(name, argv, pending=[])}


def stage_of(path: str, content: dict, among: Sequence[str] = tuple(STAGES)) -> str:
    """The stage that a YAML is for, by its name (`sft.yaml`, `sft-8b.yaml`), else by the keys that no other stage has.

    Raises:
        ConfigError: neither tells.
    """
    stem = Path(path).stem
    for name in STAGES:
        if stem == name or stem.startswith((f"{name}-", f"{name}_", f"{name}.")):
            return name
    keys = {name: {field.name for field in fields_of(spec.config_class)} for name, spec in STAGES.items()}
    elsewhere = {name: set().union(*(keys[other] for other in keys if other != name)) for name in keys}
    told = [name for name in keys if (keys[name] - elsewhere[name]) & content.keys()]
    if len(told) == 1:
        return told[0]
    remedy = f"say which stage it is for: --stage {'|'.join(told or among)}"
    raise ConfigError([Problem("stage", MISSING, remedy)], source=path)


def read_config(name: str, argv: list[str], pending: list[str]):
    """The config of a stage, its problems told but for those of what need not be there yet.

    Args:
        pending: the keys of what an earlier stage will make.
    """

    check = check_without(pending)

    def planned(config) -> list[Problem]:
        return [problem for problem in check(config) if problem.kind is not Kind.NO_SUCH_FILE]

    return parse_stage(name, argv, planned)


def pipeline_configs(path: Path, output_dir: str | None, flags: list[str]) -> dict[str, object]:
    """The configs of a pipeline's stages."""
    pipeline = read_pipeline(path)
    root = Path(output_dir or pipeline["output_dir"])
    argvs = stage_flags(pipeline, path.parent, root, flags)
    configs, problems = {}, []
    for name, argv in argvs.items():
        try:
            configs[name] = read_config(name, argv, pending_keys(name, argvs, root))
        except ConfigError as error:
            problems += [problem.under(f"{name}.") for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return configs
