"""The launcher of tests: each engine gets its processes, output is kept, and no process exceeds its time limit."""

import os

import pytest
import torch
from processes import launch, launch_command, start, wait
from torch.distributed.tensor import DTensor


def wrapped() -> None:
    """Wrap a model with the engine of the environment, and print the result."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=bool(os.environ.get("ACCELERATE_USE_CPU")))
    model = torch.nn.Linear(4, 4)
    if accelerator.state.deepspeed_plugin is not None:
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    is_sharded = isinstance(model.weight, DTensor) if hasattr(model, "weight") else False
    print(accelerator.distributed_type.value, accelerator.num_processes, accelerator.device, is_sharded, flush=True)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("engine", "expected"),
    [(None, "MULTI_CPU 2 cpu False"), ("fsdp2", "FSDP 2 cpu True"), ("zero2", "DEEPSPEED 2 cpu False")],
)
def test_each_engine_has_two_processes_on_cpus(engine, expected):
    for rank in launch(wrapped, engine=engine):
        assert expected in rank.output.replace("cpu:0", "cpu").replace("cpu:1", "cpu")


def failing() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("of the second process")


@pytest.mark.distributed
def test_how_a_process_fails_is_kept():
    first, second = wait(start(failing))
    assert (first.status, second.status) == (0, 1)
    assert "of the second process" in second.output and not first.output
    with pytest.raises(AssertionError, match="of the second process"):
        launch(failing)


@pytest.mark.distributed
def test_a_command_has_the_exit_status_of_a_shell():
    assert [rank.status for rank in launch_command("sft")] == [2, 2]
