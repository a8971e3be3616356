"""What DeepSpeed could not train or save, or would override in the config, is refused before anything is loaded."""

import json
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from processes import launch_command

from hfkit.core.errors import ConfigError
from hfkit.stages.checks import deepspeed
from hfkit.stages.checks.processes import process_problems

AUTO = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
SAVED = {"stage3_gather_16bit_weights_on_model_save": True}
GOOD = {**dict.fromkeys(AUTO, "auto"), "zero_optimization": {"stage": 3, **SAVED}}
PARAMS = {"lr": "auto", "weight_decay": "auto"}


@pytest.fixture
def refusals(config_of, monkeypatch, tmp_path):
    """refusals(settings, stage, **changes) -> the problems by key, in a process of a launch on GPUs."""
    state = SimpleNamespace(device=torch.device("cpu"), distributed_type=DistributedType.DEEPSPEED)
    monkeypatch.setattr(deepspeed, "process_state", lambda settings: state)

    def find(settings, stage: str = "sft", **changes) -> dict[str, str]:
        file = tmp_path / "zero.json"
        file.write_text(settings if isinstance(settings, str) else json.dumps(settings))
        config = config_of(stage, tmp_path / "out", **changes)
        config.extra["deepspeed"] = str(file)
        with monkeypatch.context() as launched:
            launched.setenv("LOCAL_RANK", "0")
            return {problem.key: str(problem) for problem in process_problems(config)}

    return find


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ("{", "cannot be read as JSON"),
        ([], "expected a mapping"),
        ({}, "expected a mapping"),
        ({**GOOD, "zero_optimization": {}}, "zero_optimization.stage is None"),
        ({**GOOD, "zero_optimization": {"stage": 3}}, "checkpoints would lack the weights"),
        ({**GOOD, "zero_optimization": {"stage": 0}}, "zero_optimization.stage is 0"),
        ({key: value for key, value in GOOD.items() if key != "gradient_clipping"}, "max_grad_norm would have no"),
        ({**GOOD, "scheduler": {"type": "WarmupLR"}}, "lr_scheduler_type and warmup_steps: remove it"),
        ({**GOOD, "tensor_parallel": {"autotp_size": 2}}, "remove tensor_parallel"),
        (
            {**GOOD, "optimizer": {"type": "AdamW", "params": {"lr": "auto"}}},
            "optimizer.params.weight_decay is missing",
        ),
    ],
)
def test_settings(refusals, settings, remedy):
    assert remedy in refusals(settings)["deepspeed"]


def test_what_is_refused_for_its_config(refusals):
    assert refusals(GOOD) == {}
    assert "8-bit" in refusals(GOOD, load_in_8bit=True)["deepspeed"]
    assert "merge it first" in refusals(GOOD, "reward", use_peft=False)["model_name_or_path"]  # starts from an adapter
    assert "train adapters with DDP" in refusals(GOOD, "ppo")["deepspeed"]
    assert "train with DDP" in refusals(GOOD, "dpo")["deepspeed"]
    ineffective = {"max_tokens_per_micro_batch": 64, "auto_find_batch_size": True}
    assert refusals(GOOD, **ineffective).keys() == ineffective.keys()


@pytest.mark.parametrize(
    ("more", "is_refused"),
    [
        ({"optimizer": {"type": "AdamW", "params": PARAMS}}, True),
        ({"optimizer": {"type": "AdamW", "params": {**PARAMS, "torch_adam": True}}}, False),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, True),
        (
            {
                "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
                "zero_force_ds_cpu_optimizer": False,
            },
            False,
        ),
    ],
)
def test_an_optimizer_that_no_compiler_can_make(refusals, monkeypatch, more, is_refused):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = refusals({**GOOD, **more})
    assert ("deepspeed" in found) == is_refused
    assert not is_refused or "which needs a C++ compiler" in found["deepspeed"]


def test_a_launch_is_needed(config_of, tmp_path):
    with pytest.raises(ConfigError, match="accelerate launch --use_deepspeed"):
        config_of("sft", tmp_path / "out", deepspeed=GOOD)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "ppo"])
def test_without_deepspeed(refusals, monkeypatch, stage):
    monkeypatch.setattr(deepspeed, "is_deepspeed_available", lambda: False)
    assert "pip install 'hfkit[deepspeed]'" in refusals(GOOD, stage)["deepspeed"]


@pytest.mark.distributed
def test_a_command_ends_with_status_2_before_anything_is_loaded(tmp_path, data, base_dir):
    argv = [
        "sft",
        "--datasets",
        data / "turns.jsonl",
        "--model_name_or_path",
        base_dir,
        "--output_dir",
        tmp_path / "out",
    ]
    ranks = launch_command(*argv, "--max_tokens_per_micro_batch", "64", engine="zero3")
    assert [rank.status for rank in ranks] == [2, 2], [rank.output for rank in ranks]
    assert "max_tokens_per_micro_batch" in ranks[0].output and "Traceback" not in ranks[0].output
    clipped = {"ACCELERATE_GRADIENT_CLIPPING": "2.0"}
    ranks = launch_command(*argv, "--max_length", "64", engine="zero3", environment=clipped)
    assert [rank.status for rank in ranks] == [2, 2]
    assert "gradient_clipping=2.0 vs hf max_grad_norm=1.0" in ranks[0].output
    assert not (tmp_path / "out").exists()
