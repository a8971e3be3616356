"""Pipelines of the tiny stages that every test shares."""

from pathlib import Path

import yaml
from conftest import TINY

STAGES = ("tokenizer", "pretrain", "sft", "reward", "ppo")
"""The four stages of GPT training, and their tokenizer."""


def write_pipeline(folder: Path, data: Path, stages=STAGES, **changes) -> Path:
    """Write a pipeline that runs into `folder/runs`, next to its stages' files with their changes; return its file."""
    for stage in stages:
        rows, settings, _ = TINY[stage]
        own = {"datasets": [{"path": str(data / f"{rows}.jsonl")}], **settings, **changes.get(stage, {})}
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(own))
    pipeline = {"output_dir": str(folder / "runs"), "stages": {stage: f"{stage}.yaml" for stage in stages}}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    return folder / "pipeline.yaml"
