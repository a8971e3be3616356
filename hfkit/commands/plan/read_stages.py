"""Reads the stages of a YAML for a plan, each with the models that it starts from."""

import copy

import torch

from hfkit.config.registry import STAGES
from hfkit.models.adapter_shape import lora_config
from hfkit.records.source import Source
from hfkit.stages.read_configs import read_configs
from hfkit.training.memory.device import Device
from hfkit.training.memory.planned_stage import PlannedStage, plan_stage
from hfkit.training.memory.shapes import Origin


def read_stages(
    path: str | None, stage: str | None, output_dir: str | None, flags: list[str], device: Device | None = None
) -> list[PlannedStage]:
    """Return the stages of a YAML on a device, with models known from their configs.

    The other arguments are those of `read_configs`.

    Raises:
        ConfigError: as `read_configs` does, or because the config of a model cannot be read.
    """
    among = [name for name, spec in STAGES.items() if spec.trains_a_model]
    return plan_configs(read_configs(path, stage, output_dir, flags, among), device)


def plan_configs(configs: dict[str, object], device: Device | None = None) -> list[PlannedStage]:
    """Return the planned stages of configs by stage, on a device; a stage may start from the output of an earlier one.

    Raises:
        ConfigError: the config of a model cannot be read.
    """
    stages, made = [], {}
    for name, config in configs.items():
        if STAGES[name].makes == "tokenizer":
            made[config.output_dir] = config.vocab_size
        elif STAGES[name].trains_a_model:
            stages.append(plan_stage(name, config, made, device))
            made[config.output_dir] = model_made_by(stages[-1])
    return stages


def model_made_by(stage: PlannedStage) -> Origin:
    """Return the model that a stage writes: an adapter on the base that it started from, or a full model."""
    folder, start = stage.config.output_dir, stage.start
    if not stage.config.use_peft:
        config = copy.deepcopy(start.config)
        config.dtype = config.dtype if stage.config.dtype == "auto" else getattr(torch, stage.config.dtype)
        return Origin(Source(folder, "main", folder, "main", None), config, start.tokenizer)
    adapter = lora_config(stage.config, start.source, stage.task).to_dict()
    source = Source(folder, "main", start.source.base, start.source.base_revision, adapter)
    return Origin(source, start.config, start.tokenizer)
