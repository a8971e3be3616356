"""A pipeline in two processes: no stage starts before the earlier one is published."""

import pytest
from pipelines import write_pipeline
from processes import WORLD, launch

from hfkit.records.record import read_record
from hfkit.stages.pipeline import run_pipeline

STAGES = ["tokenizer", "pretrain", "sft", "reward"]
CHANGES = {"sft": {"gradient_checkpointing": True}}  # under DDP every adapter must take part in the loss


@pytest.mark.distributed
def test_a_pipeline_under_fsdp2(data, tmp_path):
    launch(run_pipeline, write_pipeline(tmp_path, data, STAGES), engine="fsdp2")
    records = [read_record(tmp_path / "runs" / stage) for stage in STAGES]
    assert [record["status"] for record in records] == ["done"] * len(STAGES)
    assert {record["environment"]["engine"] for record in records} == {"fsdp2"}


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("stages", "times"), [(STAGES[:3], 1), pytest.param(STAGES, 2, marks=pytest.mark.slow)], ids=["run", "run again"]
)
def test_no_process_starts_a_stage_before_the_earlier_one_is_published(data, tmp_path, stages, times):
    """In the second run, every stage is done for each process."""
    path = write_pipeline(tmp_path, data, stages, **CHANGES)
    for _ in range(times):
        launch(run_pipeline, path)
    records = [read_record(tmp_path / "runs" / stage) for stage in stages]
    assert [record["status"] for record in records] == ["done"] * len(stages)
    assert [record["environment"]["processes"] for record in records] == [WORLD] * len(stages)
