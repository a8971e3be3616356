"""Reads a pipeline's YAML: its output folder, and the files and keys of each stage's config."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hfkit.config.input_paths import resolve_inputs, resolve_path
from hfkit.config.parsing import Layer, read_layer
from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, ConfigError, Problem
from hfkit.core.home import expand_home
from hfkit.core.yaml import read_yaml

KEYS = ("extends", "output_dir", "stages", "rounds")
ROUNDS_REMEDY = "expected a mapping, such as {count: 2, judge: human}"
STAGES_REMEDY = f"expected a mapping from stage to YAML file; stages: {', '.join(STAGES)}"
STAGE_REMEDY = "expected the stage's YAML file, its keys, or a list of these"


@dataclass
class Pipeline:
    """The stages of a pipeline.

    Attributes:
        output_dir: folder that the stages write to; None if it is not set yet.
        stages: the layers of each stage's config; a key in a later layer replaces that of an earlier one.
        rounds: the layers of `rounds`, see `hfkit.config.labeling`; empty for a pipeline that runs each stage once.
    """

    output_dir: str | None
    stages: dict[str, list[Layer]]
    rounds: list[Layer] = field(default_factory=list)


def is_pipeline(content: Mapping) -> bool:
    """Return whether the content of a YAML is a pipeline rather than one stage."""
    return not {"extends", "stages"}.isdisjoint(content)


def read_pipeline(path: Path) -> Pipeline:
    """Return the pipeline of a YAML, with the stages of the pipelines that it extends.

    The keys of stages are not validated here.

    Raises:
        ConfigError: with every problem: wrong keys, unknown stages, missing files.
    """
    problems: list[Problem] = []
    content = expand_home(read_yaml(str(path), problems))
    if content is None:
        raise ConfigError(problems, source=str(path))
    pipeline = merge_pipelines(path, content, problems, (path.resolve(),))
    reported = {problem.key for problem in problems}
    # a pipeline that cannot be read may have the key
    is_unsure = "extends" in reported or any(problem.file for problem in problems)
    if pipeline.output_dir is None and not is_unsure and "output_dir" not in reported:
        problems.append(Problem("output_dir", MISSING, "expected the folder that the stages write to"))
    if not pipeline.stages and not is_unsure and "stages" not in reported:
        problems.append(Problem("stages", content.get("stages", MISSING), STAGES_REMEDY))
    if problems:
        raise ConfigError(problems, source=str(path))
    return pipeline


def merge_pipelines(path: Path, content: dict, problems: list[Problem], open_files: tuple[Path, ...]) -> Pipeline:
    """Return the pipeline that the content of a YAML describes, on top of those that it extends.

    Args:
        problems: gets the problems.
        open_files: this YAML and those that extend it, to detect a cycle.
    """
    merged = Pipeline(None, {})
    extends = content.get("extends") or []
    for file in extends if isinstance(extends, list) else [extends]:
        if below := read_extended(path, file, problems, open_files):
            merged.output_dir = below.output_dir or merged.output_dir
            add_layers(merged, below.stages)
            merged.rounds += below.rounds
    problems += [
        Problem(str(key), value, f"unknown; a pipeline has only {', '.join(KEYS)}")
        for key, value in content.items()
        if key not in KEYS
    ]
    output_dir, stages = content.get("output_dir"), content.get("stages", {})
    if isinstance(output_dir, str):
        merged.output_dir = output_dir
    elif "output_dir" in content:
        problems.append(Problem("output_dir", output_dir, "expected the folder that the stages write to"))
    if not isinstance(stages, dict):
        problems.append(Problem("stages", stages, STAGES_REMEDY))
        stages = {}
    if "rounds" in content:
        merged.rounds += rounds_layers(path, content["rounds"], problems)
    for stage, given in stages.items():
        if stage not in STAGES:
            problems.append(Problem(f"stages.{stage}", given, f"unknown stage; expected one of: {', '.join(STAGES)}"))
        else:
            add_layers(merged, {stage: read_layers(path, f"stages.{stage}", given, problems)})
    return merged


def rounds_layers(path: Path, given: object, problems: list[Problem]) -> list[Layer]:
    """Return the layer of `rounds` in the YAML at `path`, with paths as in a stage's YAML, or add a problem."""
    if not isinstance(given, dict):
        problems.append(Problem("rounds", given, ROUNDS_REMEDY))
        return []
    resolved = {
        key: resolve_inputs(value, path.parent, problems, f"rounds.{key}.") if isinstance(value, dict) else value
        for key, value in resolve_inputs(given, path.parent, problems, "rounds.").items()
    }
    return [Layer(resolved, file=str(path))]


def read_extended(path: Path, file: object, problems: list[Problem], open_files: tuple[Path, ...]) -> Pipeline | None:
    """Return the pipeline that the YAML at `path` extends, or add a problem; see `merge_pipelines`."""
    if not isinstance(file, str):
        problems.append(Problem("extends", file, "expected the YAML of a pipeline, or a list of these"))
        return None
    if (found := find_yaml(path, "extends", file, problems)) is None:
        return None
    other, inner = Path(found), []
    if other.resolve() in open_files:
        problems.append(Problem("extends", file, f"remove it: {path.name} would extend itself"))
        return None
    content = expand_home(read_yaml(found, inner))
    pipeline = content and merge_pipelines(other, content, inner, (*open_files, other.resolve()))
    problems += [replace(problem, file=problem.file or found) for problem in inner]
    return pipeline


def read_layers(path: Path, key: str, given: object, problems: list[Problem]) -> list[Layer]:
    """Return the layers of a stage: files, relative to the pipeline's YAML, or mappings in it.

    Args:
        path: the pipeline's YAML.
        key: of `given` in the YAML.
        problems: gets the problems of `given`; those within a stage's file stay in its layer.
    """
    layers = []
    for index, one in enumerate(given if isinstance(given, list) else [given]):
        entry = f"{key}[{index}]" if isinstance(given, list) else key
        if isinstance(one, dict):
            layers.append(Layer(resolve_inputs(one, path.parent, problems, f"{entry}."), file=str(path)))
        elif not isinstance(one, str):
            problems.append(Problem(entry, one, STAGE_REMEDY))
        elif file := find_yaml(path, entry, one, problems):
            layers.append(read_layer(file))
    return layers


def find_yaml(path: Path, key: str, file: str, problems: list[Problem]) -> str | None:
    """Return the path of a file that a pipeline's YAML names, or add a problem and return None."""
    found = resolve_path(file, path.parent, os.path.isfile)
    if os.path.isfile(found):
        return found
    problems.append(Problem(key, file, f"no such file in {path.parent} or in the current folder"))
    return None


def add_layers(pipeline: Pipeline, stages: dict[str, list[Layer]]) -> None:
    """Add layers on top of those of a pipeline's stages."""
    for stage, layers in stages.items():
        pipeline.stages[stage] = [*pipeline.stages.get(stage, []), *layers]
