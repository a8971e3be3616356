"""A GPU out of memory: each verb names only the keys that it has."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from hfkit.commands.chat.main import chat
from hfkit.config.evaluation import ArenaConfig, EvaluateConfig
from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import explain_errors, explain_out_of_memory
from hfkit.core.staging import staged_folder
from hfkit.models.loading import load_base
from hfkit.training.run import Run

CPU = "run on the CPU (CUDA_VISIBLE_DEVICES= in front of the command)"
PLAN = "run `hfkit plan` to see what fits"
TRAIN = "lower per_device_train_batch_size (and raise gradient_accumulation_steps)"
EVAL = "lower per_device_eval_batch_size"


def remedies(context) -> list[str]:
    with pytest.raises(HfkitError, match="the GPU is out of memory: ") as caught, context:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
    return str(caught.value).removeprefix("the GPU is out of memory: ").split(", or ")


@pytest.mark.parametrize(
    ("stage", "changes", "keys"),
    [
        ("sft", {}, [TRAIN, EVAL, PLAN]),
        ("sft", {"per_device_train_batch_size": 1, "gradient_checkpointing": True}, [EVAL, PLAN]),
        ("reward", {"gradient_checkpointing": False}, [TRAIN, EVAL, "set gradient_checkpointing to true", PLAN]),
        (
            "ppo",
            {},
            [TRAIN, "lower local_rollout_forward_batch_size", EVAL, "set merge_in_rollouts to false", PLAN],
        ),
        ("ppo", {"use_peft": False, "local_rollout_forward_batch_size": 1}, [TRAIN, EVAL, PLAN]),
    ],
)
def test_a_stage_names_its_own_keys(config_of, tmp_path, stage, changes, keys):
    run = Run(stage, config_of(stage, tmp_path / "out", **changes), {}, [])
    assert remedies(run.training()) == keys


@pytest.mark.parametrize(
    "config",
    [
        EvaluateConfig(model_name_or_path="model", dtype="float32"),
        ArenaConfig(models=["one", "other"], prompts="rows.jsonl", judge="human", dtype="float32"),
    ],
)
def test_an_evaluation_names_its_own_keys(tmp_path, config):
    assert remedies(explain_errors(tmp_path, config)) == [EVAL, "set dtype to bfloat16", CPU]
    config.dtype, config.per_device_eval_batch_size = "bfloat16", 1
    assert remedies(explain_errors(tmp_path, config)) == [CPU]


def test_a_merge_suggests_the_cpu(tmp_path):
    assert remedies(staged_folder(tmp_path / "merged", "merging")) == [CPU]


def test_a_chat_explains_it(sft_dir, capsys):
    """Memory runs out while the model is loaded, or in a response."""

    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(run_out)
    try:
        with pytest.raises(HfkitError, match="out of memory: set dtype to bfloat16, or run on the CPU"):
            chat(str(sft_dir), prompt="Who?")
    finally:
        hook.remove()


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="older versions of PyTorch have one kind of error")
def test_a_gpu_that_others_have_filled(base_dir, monkeypatch):
    """CUDA itself is then out of memory, for which PyTorch has another error; other codes mean a broken GPU."""
    error = torch.AcceleratorError("CUDA error: out of memory")
    load = AutoModelForCausalLM.from_pretrained

    def fail(*args, **options):
        if options.get("device_map") == "meta":  # the files are read first
            return load(*args, **options)
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    for code, message in ((2, "the GPU is out of memory: "), (999, "cannot load ")):
        error.error_code = code
        with pytest.raises(HfkitError, match=message), explain_out_of_memory():
            load_base(str(base_dir))


def test_a_machine_out_of_memory_is_not_reported_as_a_gpu(tmp_path):
    with pytest.raises(HfkitError, match="the machine is out of memory: "), explain_errors(tmp_path):
        torch.empty(2**50, dtype=torch.uint8, device="cpu")
