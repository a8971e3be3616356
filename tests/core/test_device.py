"""How a stage chooses its device and processes before it loads a model, as far as a CPU can test it."""

import os
import time
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import PartialState
from packaging.version import Version
from processes import launch

from hfkit.core.device import (
    device,
    keep_random_state,
    prepare_device,
    process_state,
    require_gpu,
    restore_to_numbered_cpus,
    set_tf32,
    wait_for_everyone,
)
from hfkit.core.errors import ConfigError
from hfkit.models.loading import load_base
from hfkit.records.environment import environment
from hfkit.records.record import read_record
from hfkit.training.arguments import trainer_arguments

ON_A_GPU = "high" if Version(transformers.__version__) >= Version("5.23") else "highest"


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_on_a_cpu_nothing_is_fused_rounded_or_recomputed(stage, config_of, tmp_path):
    arguments = trainer_arguments(config_of(stage, tmp_path))
    assert (arguments.optim, arguments.bf16, arguments.gradient_checkpointing) == ("adamw_torch", False, False)
    assert (arguments.n_gpu, device().type) == (0, "cpu")


def test_models_are_loaded_without_cudnns_attention(base_dir):
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert device().type == "cpu" and torch.backends.cuda.cudnn_sdp_enabled()  # reading the device changes nothing
    load_base(str(base_dir))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_stage_trains_without_cudnns_attention(config_of, tmp_path):
    torch.backends.cuda.enable_cudnn_sdp(True)
    prepare_device(config_of("pretrain", tmp_path))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_tf32_is_for_gpus():
    before = torch.get_float32_matmul_precision()
    try:
        set_tf32("cpu")
        assert torch.get_float32_matmul_precision() == environment()["float32_matmul_precision"] == before == "highest"
        set_tf32("cuda")  # older versions would round rotary positions
        assert torch.get_float32_matmul_precision() == environment()["float32_matmul_precision"] == ON_A_GPU
        for tf32, precision in ((False, "highest"), (True, "high")):
            set_tf32("cuda", tf32)
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
def test_a_stage_may_forbid_tf32(config_of, tmp_path):
    for tf32, precision in ((False, "highest"), (True, "high"), (None, ON_A_GPU)):
        torch.set_float32_matmul_precision("highest")
        config = config_of("sft", tmp_path, **({} if tf32 is None else {"tf32": tf32}))
        prepare_device(config)
        trainer_arguments(config)  # Transformers would use PyTorch's newer setting, which does not update this one
        assert torch.get_float32_matmul_precision() == environment()["float32_matmul_precision"] == precision


@pytest.fixture
def other_device(monkeypatch):
    """A machine whose accelerator is torch's meta device."""
    monkeypatch.setattr(PartialState, "default_device", torch.device("meta"))
    yield
    monkeypatch.undo()
    process_state({})


def test_the_device_of_one_stage_is_not_that_of_the_next(other_device, config_of, tmp_path):
    """A pipeline runs its stages in one process, after it has validated their configs."""
    kinds = []
    for use_cpu in (False, True, False):
        config = config_of("sft", tmp_path, use_cpu=use_cpu)
        prepare_device(config)
        kinds.append(device().type)
    assert kinds == ["meta", "cpu", "meta"]
    with pytest.raises(ConfigError, match="runs on a GPU only"):
        config_of("sft", tmp_path, use_cpu=True, use_liger_kernel=True)
    prepare_device(config)
    assert device().type == "meta"


@pytest.mark.gpu
def test_a_stage_on_the_cpu_between_two_on_a_gpu(run_stage, tmp_path):
    devices = []
    for index, use_cpu in enumerate((False, True, False)):
        record = read_record(run_stage("sft", tmp_path / str(index), use_cpu=use_cpu))
        assert record["peak_memory_bytes"] > 0
        devices.append(record["environment"]["device"])
    assert devices == [torch.cuda.get_device_name(), "cpu", torch.cuda.get_device_name()]


def test_tensors_are_restored_to_the_cpu_of_a_process_in_a_launch(tmp_path):
    torch.save({"moment": torch.arange(3.0)}, tmp_path / "optimizer.pt")
    restore_to_numbered_cpus()
    found = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 0), weights_only=True)["moment"]
    assert torch.equal(found, torch.arange(3.0)) and found.device.type == "cpu"


def test_the_generators_are_restored():
    before = torch.get_rng_state()
    with keep_random_state(torch.device("cpu")):
        torch.manual_seed(7)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def wait_briefly(over: Path) -> None:
    """Wait for the other process, which joins only after the wait is over."""
    process_state({"ddp_timeout": 2})
    wait_for_everyone()
    if os.environ["RANK"] == "0":
        with pytest.raises(RuntimeError, match="imed out"):
            wait_for_everyone()
        over.touch()
    while not over.exists():
        time.sleep(0.02)


@pytest.mark.distributed
def test_ddp_timeout_is_that_of_the_group(tmp_path):
    launch(wait_briefly, tmp_path / "over")


@pytest.mark.gpu
def test_a_process_without_its_own_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    require_gpu({"use_cpu": True})
    with pytest.raises(ConfigError, match=r"LOCAL_RANK: .*start at most that many processes"):
        require_gpu({})
