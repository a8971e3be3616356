"""Resolves a YAML, of one stage or of a pipeline, to the configs of its stages, before any stage runs."""

import re
from collections.abc import Sequence
from dataclasses import fields as fields_of
from pathlib import Path

from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, ConfigError, Kind, Problem
from hfkit.core.yaml import read_yaml
from hfkit.stages.pipeline import check_except, parse_stage, parse_stages, stage_flags
from hfkit.stages.pipeline_file import is_pipeline, read_pipeline

IGNORED = (Kind.NO_SUCH_FILE, Kind.NOT_HERE)
"""Problems to ignore, since files may be created later and a run may happen on another machine."""


def read_configs(
    path: str | None, stage: str | None, output_dir: str | None, flags: list[str], among: Sequence[str] | None = None
) -> dict[str, object]:
    """Return the configs of a YAML by stage, for one stage or a pipeline; files that they name may be missing.

    Args:
        path: a stage's YAML, or a pipeline's; None for a stage that `flags` describe.
        stage: the stage of the YAML; None infers it from its name and keys.
        output_dir: folder to write to instead of the YAML's `output_dir`.
        flags: `["--seed", "1"]`, for one stage of a pipeline `["--sft.learning_rate", "1e-4"]`.
        among: the stages that are allowed for a YAML of one stage; None allows all.

    Raises:
        ConfigError: the YAML cannot be read, its stage cannot be inferred, or a config has problems.
    """
    problems: list[Problem] = []
    content = {} if path is None else read_yaml(path, problems)
    if content is None:
        raise ConfigError(problems, source=path)
    if is_pipeline(content):
        if stage is not None:
            raise ConfigError(
                [Problem("--stage", stage, "has no effect on a pipeline, which names its stages: remove it")]
            )
        pipeline = read_pipeline(Path(path))
        if pipeline.rounds:
            remedy = "this command reads no rounds: name a pipeline without them; its stages are those of each round"
            raise ConfigError([Problem("rounds", "given", remedy)], source=path)
        root = Path(output_dir or pipeline.output_dir)
        return parse_stages(pipeline, stage_flags(pipeline, root, flags), root, IGNORED)
    among = tuple(STAGES) if among is None else among
    if path is None and stage is None:
        raise ConfigError([Problem("config", MISSING, f"name a YAML; flags alone need --stage {'|'.join(among)}")])
    name = stage or infer_stage(path or "", content, among)
    if name not in among:
        raise ConfigError([Problem("stage", name, f"expected one of: {', '.join(among)}")], source=path)
    argv = [*(["--config", path] if path else []), *flags, *(["--output_dir", output_dir] if output_dir else [])]
    if output_dir is None and "output_dir" not in content:
        argv += ["--output_dir", "."]  # required, and nothing is written to it
    return {name: parse_stage(name, argv, check=check_except([], IGNORED))}


def infer_stage(path: str, content: dict, among: Sequence[str] | None = None) -> str:
    """Return the stage of a YAML: by a word of its file name (`sft.yaml`, `my-sft-8b.yaml`), else by a key.

    The word must name one stage, and the key must be one that only one stage has.

    Raises:
        ConfigError: neither identifies one stage.
    """
    named = {*re.split(r"[-_.]", Path(path).stem)} & {*STAGES}
    if len(named) == 1:
        return named.pop()
    keys = {name: {field.name for field in fields_of(spec.config_class)} for name, spec in STAGES.items()}
    elsewhere = {name: set().union(*(keys[other] for other in keys if other != name)) for name in keys}
    possible = [name for name in keys if (keys[name] - elsewhere[name]) & content.keys()]
    if len(possible) == 1:
        return possible[0]
    remedy = f"name its stage: --stage {'|'.join(possible or among or STAGES)}"
    raise ConfigError([Problem("stage", MISSING, remedy)], source=path)
