"""On a GPU with room, micro-batches take more tokens than the config's rows, as far as that saves time."""

from dataclasses import replace

import pytest
import torch
from planned import LLAMA, LORA, plan_8b
from quick import mostly_slow
from safetensors.torch import load_file

from hfkit.config.registry import STAGES
from hfkit.records.record import read_record
from hfkit.stages.open_run import open_run
from hfkit.training.memory.checkpointing import MARGIN, decide_checkpointing
from hfkit.training.memory.device import Device, gpu_of
from hfkit.training.memory.micro_batch import decide_micro_batch, with_tokens
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.plan_run import decide_on
from hfkit.training.memory.planned_stage import plan_stage
from hfkit.training.memory.processes import Launch
from hfkit.training.memory.rows import micro_batch_tokens, row_length

ACCUMULATED = {"gradient_accumulation_steps": 8, "micro_batches_by_length": True}
LARGE = gpu_of(80 * 10**9)
NO_ROOM = Device("a GPU", 1, 0, is_gpu=True)
MIXTURE = {**LLAMA, "model_type": "mixtral", "num_local_experts": 2}
DENSE = {
    "granitemoehybrid": {"layer_types": ["attention"] * 4, "num_local_experts": 0, "mamba_n_heads": 4},
    "doge": {"is_moe": False},
}
"""Models without experts of architectures that have them."""


def decided_tokens(stage, on=LARGE, launch=None) -> int | None:
    return decide_micro_batch(stage, on, *[launch] if launch else []).config.max_tokens_per_micro_batch


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "dpo", "ppo", "grpo", "rloo"])
def test_a_small_model_takes_all_rows_of_a_step_at_once(stage_for, name):
    changes = ACCUMULATED | ({"num_mini_batches": 2, "total_episodes": 32} if name == "ppo" else {})
    stage = stage_for(name, **changes)
    rows = 4 * 8 // changes.get("num_mini_batches", 1)
    assert decided_tokens(stage) == rows * stage.replies * row_length(stage.spec, stage.config)
    assert decided_tokens(stage_for(name, gradient_accumulation_steps=1)) is None


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "tokens"), [(1, 8_192), (16, None)])
def test_a_large_model_takes_what_saves_time(llama_8b, tmp_path, rows, tokens):
    options = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 64 // rows}
    stage = plan_8b(llama_8b, tmp_path, LARGE, **options)
    chosen = decide_micro_batch(stage, LARGE)
    assert chosen.config.max_tokens_per_micro_batch == tokens
    assert plan_memory(chosen, LARGE).peak < LARGE.capacity / MARGIN


@pytest.mark.slow
def test_micro_batches_shrink_rather_than_recompute(llama_8b, tmp_path):
    options = {"gradient_accumulation_steps": 2, "gradient_checkpointing": None, "per_device_train_batch_size": 32}
    card = gpu_of(141 * 10**9)
    stage = plan_8b(llama_8b, tmp_path, card, **options)
    assert decide_checkpointing(stage, card)[1].enabled
    chosen, decided = decide_checkpointing(decide_micro_batch(stage, card), card)
    assert not decided.enabled and chosen.config.max_tokens_per_micro_batch == 8 * 1024
    assert decide_micro_batch(stage, gpu_of(24 * 10**9)) is stage  # too small for any without recomputing


def test_it_takes_only_what_fits_with_a_margin(stage_for):
    stage = stage_for("sft", **ACCUMULATED, **LORA, gradient_checkpointing=False)
    sizes = [4 * 160 * 2**power for power in range(4)]
    peaks = [
        plan_memory(replace(stage, config=replace(stage.config, max_tokens_per_micro_batch=size)), LARGE).peak
        for size in sizes
    ]
    assert peaks == sorted(set(peaks))
    for size, peak in zip(sizes[1:], peaks[1:], strict=True):
        assert decided_tokens(stage, gpu_of(int(peak * MARGIN) + 1)) == size
        assert decided_tokens(stage, gpu_of(int(peak * MARGIN) - 1)) == (size // 2 if size > sizes[1] else None)


@pytest.mark.parametrize(
    ("name", "changes", "launch"),
    [
        ("sft", {"max_tokens_per_micro_batch": 200}, None),
        ("sft", {"micro_batches_by_length": False}, None),
        ("sft", {"packing": True}, None),
        ("sft", {}, Launch(2, "zero2")),
        ("ppo", {"rollout_engine": "vllm", "vllm_mode": "colocate", "total_episodes": 32}, None),
        ("grpo", {"loss_type": "bnpo"}, None),
        ("rloo", {"steps_per_generation": 12}, None),
        ("sft", {"gradient_accumulation_steps": 1}, None),
        ("dpo", {"loss_type": ["aot"]}, None),
        ("grpo", {"entropy_coef": 0.1}, None),
        ("grpo", {"top_entropy_quantile": 0.5}, None),
    ],
)
def test_nothing_else_changes_it(stage_for, name, changes, launch):
    stage = stage_for(name, **ACCUMULATED | changes)
    assert decide_micro_batch(stage, LARGE, *[launch] if launch else []) is stage


@pytest.mark.parametrize(
    ("name", "changes", "is_mixture"),
    [
        *mostly_slow([(name, {}, True) for name in ("sft", "dpo", "grpo", "rloo")], [("sft", {}, True)]),
        ("dpo", {"loss_type": ["aot"]}, False),
        ("grpo", {"entropy_coef": 0.1}, False),
        ("grpo", {"top_entropy_quantile": 0.5}, False),
    ],
)
def test_batches_that_a_trainer_computes_whole_do_not_shrink(
    folder_of, stage_for, monkeypatch, name, changes, is_mixture
):
    """Activations would be kept for micro-batches that the trainer does not cut."""
    monkeypatch.setattr("hfkit.models.micro_batches.LAYER_CALL", 0)  # else a small model needs large micro-batches
    rows = {"gradient_checkpointing": None, "per_device_train_batch_size": 32}
    model = {"model_name_or_path": folder_of(MIXTURE)} if is_mixture else {}
    stage = stage_for(name, **rows, **changes, **model)
    room = Device("a GPU", int(decide_checkpointing(stage, NO_ROOM)[1].needed * 0.9 * MARGIN), 0, is_gpu=True)
    assert decide_micro_batch(stage, room) is stage and decide_checkpointing(stage, room)[1].enabled
    cut = stage_for(name, **rows, **model, router_aux_loss_coef=0.0) if is_mixture else stage_for(name, **rows)
    assert not decide_checkpointing(decide_micro_batch(cut, room), room)[1].enabled


@pytest.mark.parametrize("model_type", DENSE)
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_dense_models_of_architectures_with_experts_take_all_rows(folder_of, stage_for, name, model_type):
    folder = folder_of({**LLAMA, "model_type": model_type, **DENSE[model_type]}, weights=False)
    stage = stage_for(name, **ACCUMULATED, model_name_or_path=folder)
    assert decided_tokens(stage) == 4 * 8 * stage.replies * row_length(stage.spec, stage.config)


@pytest.mark.slow
def test_weights_that_are_gathered_for_each_micro_batch_leave_it_as_large(llama_8b, tmp_path):
    """Under DDP, smaller micro-batches of the same stage send nothing more, and keep their activations."""
    options = {"gradient_accumulation_steps": 2, "gradient_checkpointing": None, "per_device_train_batch_size": 32}
    card = gpu_of(141 * 10**9)
    stage = plan_8b(llama_8b, tmp_path, card, **options)
    assert decided_tokens(stage, card, Launch(2, "ddp")) == 8 * 1024
    assert decided_tokens(stage, card, Launch(2, "fsdp2")) is None


def test_activations_that_the_engine_recomputes_are_planned_so(config_of, tmp_path, monkeypatch):
    config = config_of("sft", tmp_path / "out", gradient_accumulation_steps=4)
    whole = with_tokens(plan_stage("sft", replace(config, gradient_checkpointing=True), {}, NO_ROOM), 4 * 4 * 64)
    room = replace(NO_ROOM, capacity=int(plan_memory(whole, NO_ROOM).peak * MARGIN) + 1)
    monkeypatch.setattr("hfkit.training.memory.plan_run.fsdp_recomputes", lambda: True)
    decided, tokens = decide_on(room, "sft", config)
    assert not decided.enabled and tokens == 4 * 4 * 64


def test_a_cpu_computes_the_rows_of_the_config(stage_for):
    assert decided_tokens(stage_for("sft", **ACCUMULATED), Device("a machine", 10**12, 0, is_gpu=False)) is None


def test_a_run_takes_and_reports_it(config_of, tmp_path, capsys):
    config = config_of("sft", tmp_path / "out", gradient_accumulation_steps=4)
    run = open_run("sft", config, {})
    decided, tokens = decide_on(LARGE, run.stage, run.config)
    assert not decided.enabled and tokens == 4 * 4 * 64
    assert "max_tokens_per_micro_batch: 1,024" in capsys.readouterr().out
    run.config.max_tokens_per_micro_batch = tokens
    assert micro_batch_tokens(STAGES["sft"], run.config) == tokens
    assert decide_on(LARGE, run.stage, run.config)[1] == tokens


def test_a_model_that_cannot_be_planned_keeps_the_rows_of_the_config(config_of, tmp_path, capsys):
    config = config_of("sft", tmp_path / "out", gradient_accumulation_steps=4)
    config.model_name_or_path = str(tmp_path)
    decided, tokens = decide_on(LARGE, "sft", config)
    assert decided.enabled and tokens is None
    assert "cannot be planned" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_a_run_on_a_gpu_chooses_it_and_trains_the_same(stage, run_stage, tmp_path):
    settings = {"gradient_accumulation_steps": 4, "bf16": False, "max_steps": 3}
    chosen, asked = (
        run_stage(stage, tmp_path / str(tokens), **settings, max_tokens_per_micro_batch=tokens)
        for tokens in (None, 256)
    )
    record = read_record(chosen)
    assert record["micro_batch_tokens"] > 256 and record["config"]["max_tokens_per_micro_batch"] is None
    weights, same = (load_file(folder / "adapter_model.safetensors") for folder in (chosen, asked))
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, rtol=0, atol=1e-4)
