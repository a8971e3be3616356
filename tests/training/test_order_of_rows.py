"""`train_sampling_strategy: group_by_length` takes each row once in an epoch, in two processes or a resumed run."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from interruption import assert_same_run, stopped_copy
from micro_batch_cases import INSTRUCTIONS
from processes import launch

from hfkit.stages import sft

STEPS = {"test_split_size": None, "train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2}
STEPS |= {"lora_dropout": 0.1, "max_steps": 8, "save_steps": 6, "max_tokens_per_micro_batch": 70, "max_length": 128}


def train_recorded(config, folder: Path) -> None:
    """Run SFT; the token ids of the rows of each step go to a file."""
    taken = []

    class Recorded(sft.MicroBatchedSFTTrainer):
        """Keeps the rows of each step."""

        def get_batch_samples(self, *args):
            batches, items = super().get_batch_samples(*args)
            pairs = (zip(one["input_ids"], one["attention_mask"], strict=True) for one in batches)
            taken.append([ids[mask.bool()].tolist() for rows in pairs for ids, mask in rows])
            return batches, items

    sft.MicroBatchedSFTTrainer = Recorded
    sft.main(config)
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(taken))


@pytest.mark.distributed
def test_processes_whose_dropout_draws_apart_share_out_an_epoch(config_of, rows_file, tmp_path):
    settings = {**STEPS, "datasets": rows_file(INSTRUCTIONS[:16])}
    launch(train_recorded, config_of("sft", tmp_path / "run", **settings), tmp_path)
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    for epoch in (slice(0, 4), slice(4, 8)):
        rows = Counter(tuple(row) for steps in ranks for step in steps[epoch] for row in step)
        assert len(rows) == rows.total() == 16


def test_a_run_that_resumes_within_an_epoch_has_the_rows_of_an_uninterrupted_one(config_of, rows_file, tmp_path):
    settings = {**STEPS, "datasets": rows_file(INSTRUCTIONS[:8])}  # epochs of 4 steps
    sft.main(config_of("sft", tmp_path / "whole", **settings))
    stopped = stopped_copy(tmp_path / "whole", tmp_path / "stopped", 6)
    sft.main(config_of("sft", stopped, **settings, resume_from_checkpoint=True))
    assert_same_run(stopped, tmp_path / "whole")
