"""GRPO and RLOO in two processes: groups that lie across both, one reward for all, and runs that resume."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from interruption import assert_same_run, stopped_copy
from processes import WORLD, launch

from hfkit.models.loading import load_policy
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.rlhf.online_batches import OnlineBatches

CHANGES = {"max_steps": 3, "save_steps": 1, "num_generations": 4, "num_iterations": 2, "save_total_limit": 9}
HALF = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}  # of a group


def train(stage: str, config, folder: Path) -> None:
    """A run that writes the batches and rewards of each process to a file in its folder."""
    own, seen = OnlineBatches.compute_loss, []

    def keep(self, model, inputs, *given, **options):
        seen.append({name: inputs[name].clone() for name in ("prompt_ids", "advantages")})
        return own(self, model, inputs, *given, **options)

    OnlineBatches.compute_loss = keep
    import_module(f"hfkit.stages.{stage}").main(config)
    torch.save(seen, folder / f"seen-{torch.distributed.get_rank()}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["grpo", "rloo"])
def test_a_run_compares_groups_across_processes_and_resumes(config_of, tmp_path, stage):
    changes = {**CHANGES, "eval_strategy": "steps", "eval_steps": 1, "test_split_size": 2}
    launch(train, stage, replace(config_of(stage, tmp_path / "whole", **changes), **HALF), tmp_path)
    assert read_record(tmp_path / "whole")["environment"]["processes"] == WORLD
    seen = [torch.load(tmp_path / f"seen-{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for batches in zip(*seen, strict=True):  # advantages of a batch sum to 0 over both processes, and not in each
        assert abs(sum(float(batch["advantages"].sum()) for batch in batches)) < 1e-3
    assert any(abs(float(batch["advantages"].sum())) > 0.01 for batch in seen[0])
    stopped = stopped_copy(tmp_path / "whole", tmp_path / "stopped", 1)
    launch(train, stage, replace(config_of(stage, stopped, **changes, resume_from_checkpoint=True), **HALF), tmp_path)
    assert_same_run(stopped, tmp_path / "whole")
    policy, tokenizer = load_policy(str(stopped))
    assert policy(**tokenizer("Ann", return_tensors="pt", return_token_type_ids=False)).logits.isfinite().all()
    rows = [row for row in read_metrics(stopped) if "objective/scores" in row]
    assert len(rows) == 3 and json.dumps(rows)
