"""A whole pipeline in two processes: no stage begins before the one that it starts from is there."""

from pathlib import Path

import yaml
from conftest import TINY
from test_ppo_processes import WORLD, launch

from hfkit.pipeline import run_pipeline
from hfkit.record import read_record

STAGES = ["tokenizer", "pretrain", "sft"]


def pipeline_file(folder: Path, data: Path) -> Path:
    for stage in STAGES:
        rows, settings, _ = TINY[stage]
        own = {"datasets": [{"path": str(data / f"{rows}.jsonl")}], **settings}
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(own))
    pipeline = {"output_dir": str(folder / "runs"), "stages": {stage: f"{stage}.yaml" for stage in STAGES}}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    return folder / "pipeline.yaml"


def test_no_process_goes_on_to_a_stage_before_the_one_before_is_published(data, tmp_path):
    path = pipeline_file(tmp_path, data)
    for _ in ("run", "skipped"):
        launch(run_pipeline, path)
    records = [read_record(tmp_path / "runs" / stage) for stage in STAGES]
    assert [record["status"] for record in records] == ["done"] * len(STAGES)
    assert [record["environment"]["processes"] for record in records] == [WORLD] * len(STAGES)
