"""Validates how several processes share a model: what an engine cannot train, save and resume is refused."""

from hfkit.config.registry import spec_of_config
from hfkit.core.errors import Problem
from hfkit.stages.checks.deepspeed import deepspeed_problems
from hfkit.stages.checks.fsdp import fsdp_problems


def process_problems(config) -> list[Problem]:
    """Return problems of the engine that trains in several processes; a stage that trains no model has none."""
    spec = spec_of_config(config)
    if spec is None or not spec.trains_a_model:
        return []
    return fsdp_problems(config, spec) + deepspeed_problems(config, spec)
