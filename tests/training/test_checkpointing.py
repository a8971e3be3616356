"""Activations are recomputed where a GPU has too little memory to keep them; what was decided is recorded."""

import warnings
from dataclasses import replace

import pytest
import torch
from planned import LORA, plan_8b

from hfkit.core.errors import HfkitError
from hfkit.models.loading import load_base
from hfkit.records.record import read_record
from hfkit.rlhf.forward import recompute_activations
from hfkit.stages.open_run import open_run
from hfkit.training.arguments import trainer_arguments
from hfkit.training.memory.checkpointing import MARGIN, decide_checkpointing
from hfkit.training.memory.device import Device, free_gpu, gpu_of
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.plan_run import plan_run
from hfkit.training.memory.rows import micro_batch_tokens

GIB = 10**9


def on_card(stage, gigabytes: float):
    return decide_checkpointing(stage, gpu_of(int(gigabytes * GIB)))


@pytest.mark.slow
def test_activations_are_kept_where_they_fit_with_a_margin(llama_8b, tmp_path):
    options = {"gradient_checkpointing": None, "per_device_train_batch_size": 8}
    stage = plan_8b(llama_8b, tmp_path, gpu_of(80 * GIB), **options)
    _, decided = on_card(stage, 80)
    needed = decided.needed / GIB
    for capacity, enabled in ((needed * MARGIN * 1.01, False), (needed * MARGIN * 0.99, True), (needed / 2, True)):
        planned, decided = on_card(stage, capacity)
        assert planned.config.gradient_checkpointing == decided.enabled == enabled
        assert decided.needed == pytest.approx(needed * GIB) and decided.available == int(capacity * GIB)
    kept, again = (
        plan_memory(replace(stage, config=replace(stage.config, gradient_checkpointing=value)), gpu_of(1))
        for value in (False, True)
    )
    assert kept.peak == decided.needed > 2 * again.peak


def test_a_key_that_is_set_wins_and_a_cpu_keeps_them(stage_for):
    for asked in (False, True):
        stage, decided = on_card(stage_for("sft", gradient_checkpointing=asked), 1e-3 if not asked else 1000)
        assert stage.config.gradient_checkpointing == decided.enabled == asked and decided.needed is None
    stage, decided = decide_checkpointing(stage_for("sft"), Device("a machine", 1, 0, is_gpu=False))
    assert (stage.config.gradient_checkpointing, decided.enabled) == (False, False)


@pytest.mark.parametrize(
    ("name", "changes", "tokens"),
    [
        ("sft", {}, 4 * 160),
        ("sft", {"max_tokens_per_micro_batch": 320}, 320),
        ("sft", {"max_tokens_per_micro_batch": 100}, 160),  # a row is not cut
        ("sft", {"max_tokens_per_micro_batch": 10_000}, 4 * 160),  # a step has no more
        ("sft", {"max_tokens_per_micro_batch": 10_000, "gradient_accumulation_steps": 2}, 8 * 160),
        ("sft", {"gradient_accumulation_steps": 2, "packing": True}, 4 * 160),  # packed rows are not cut apart
        ("pretrain", {"max_tokens_per_micro_batch": 256}, 256),
        ("pretrain", {"gradient_accumulation_steps": 2, "packing": "documents"}, 4 * 128),
        ("reward", {"max_tokens_per_micro_batch": 100}, 2 * 160),
        ("reward", {"form": "rankings"}, 4 * 4 * 160),
        ("ppo", {}, 4 * 96),
    ],
)
def test_the_tokens_of_the_largest_micro_batch(stage_for, name, changes, tokens):
    stage = stage_for(name, **changes)
    assert micro_batch_tokens(stage.spec, stage.config, stage.replies) == tokens


def test_smaller_micro_batches_need_less_memory(stage_for):
    whole, small = stage_for("sft", **LORA), stage_for("sft", **LORA, max_tokens_per_micro_batch=160)
    one = stage_for("sft", **LORA, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    device = gpu_of(GIB)
    assert plan_memory(small, device).activations == plan_memory(one, device).activations
    assert plan_memory(small, device).peak == plan_memory(one, device).peak < plan_memory(whole, device).peak


def test_a_full_gpu_asks_for_it_where_it_was_not_chosen(config_of, tmp_path):
    given = config_of("sft", tmp_path / "out")
    run = open_run("sft", given, {})
    with pytest.raises(HfkitError, match="set gradient_checkpointing to true"), run.training():
        plan_run(run)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
    assert given.gradient_checkpointing is None  # a caller's own config stays as it is


def test_a_full_gpu_asks_for_smaller_micro_batches_where_a_run_chose_them(config_of, tmp_path):
    """Lower batches would not help: the run would choose as many tokens again."""
    run = open_run("sft", config_of("sft", tmp_path / "out", per_device_train_batch_size=1), {})
    with pytest.raises(HfkitError, match="memory: set max_tokens_per_micro_batch below 1024"), run.training():
        plan_run(run).max_tokens_per_micro_batch = 1024
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")


def test_a_record_says_what_was_decided(config_of, tmp_path):
    run = open_run("sft", config_of("sft", tmp_path / "out", max_tokens_per_micro_batch=128, use_cpu=True), {})
    with run.training():
        config = plan_run(run)
    record = read_record(tmp_path / "out")
    assert config.gradient_checkpointing is False and record["config"]["gradient_checkpointing"] is None
    assert record["gradient_checkpointing"] == {"enabled": False, "needed": None, "available": None}
    assert record["micro_batch_tokens"] == 128


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_transformers_gets_its_own_name_for_it(stage, config_of, tmp_path):
    for asked in (True, False):
        config = config_of(stage, tmp_path, gradient_checkpointing=asked)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="`gradient_checkpointing` is deprecated")
            arguments = trainer_arguments(config)
        assert arguments.gradient_checkpointing == asked
        assert getattr(arguments, "activation_checkpointing", asked) == asked


def test_a_model_recomputes_under_either_name(base_dir):
    model = load_base(str(base_dir))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*gradient_checkpointing_enable.*")
        recompute_activations(model)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_small_run_on_a_gpu_keeps_its_activations(stage, run_stage, tmp_path):
    record = read_record(run_stage(stage, tmp_path / "out"))
    decided = record["gradient_checkpointing"]
    assert not decided["enabled"] and 0 < decided["needed"] < decided["available"]
    assert record["peak_memory_bytes"] < decided["needed"] * MARGIN


@pytest.mark.gpu
def test_a_gpu_without_room_recomputes(stage_for):
    """What is held counts, whoever holds it; the GPU is not filled, since other tests may use it at the same time."""
    before = free_gpu()
    held = torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
    taken = before.capacity - free_gpu().capacity
    assert taken == pytest.approx(2 * GIB, rel=0.1)
    del held
    assert abs(before.capacity - free_gpu().capacity) < 0.1 * GIB  # torch keeps it, for whatever comes next
    full = replace(before, capacity=10**6)
    assert decide_checkpointing(stage_for("sft"), full)[1].enabled
