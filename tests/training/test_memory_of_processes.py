"""The memory of each process of a launch: planned, against parts that torch makes and against processes that run."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from planned import CPU, FUNCTIONS, LORA, ROOT, ROWS
from resident import SHAPE_100M, resident_memory

from hfkit.core.launch import FSDP_REPLICAS
from hfkit.training.memory.communication import sent_bytes
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory
from hfkit.training.memory.processes import ALONE, LAUNCH_ENGINES, Launch, gathered_by_layers, this_launch
from hfkit.training.memory.shapes import roles_of


def test_a_process_holds_the_largest_of_the_parts_that_torch_makes(stage_for):
    weights = roles_of(stage_for("sft", **LORA))[0].weights
    shapes = {weight.shape for weight in weights}
    assert len(shapes) > 5
    for processes in (2, 3, 8, 64):
        for weight, shard in zip(weights, Launch(processes, "fsdp2").shard(weights), strict=True):
            parts = torch.empty(weight.shape, device="meta").chunk(processes)
            assert shard.count == max(part.numel() for part in parts)


def test_quantized_weights_stay_whole_under_fsdp2_and_are_cut_by_zero3(stage_for):
    stage = stage_for("sft", **LORA, load_in_4bit=True)
    weights = roles_of(stage)[0].weights
    quantized = [weight for weight in weights if weight.bits]
    assert quantized and set(quantized) <= set(Launch(4, "fsdp2").shard(weights))
    parts = Launch(4, "zero3").shard(weights)
    assert [part.count for part in parts] == [-(-weight.count // 4) for weight in weights]


@pytest.mark.parametrize("engine", LAUNCH_ENGINES)
def test_an_engine_shares_out_what_it_is_for(stage_for, engine):
    stage = stage_for("sft")
    (alone,), (shared,) = (plan_memory(stage, CPU, launch).roles for launch in (ALONE, Launch(4, engine)))
    assert (shared.parameters, shared.trainable) == (alone.parameters, alone.trainable)
    share = {"ddp": (1, 1, 1), "zero2": (1, 4, 4), "zero3": (4, 4, 4), "fsdp2": (4, 4, 4)}[engine]
    masters = (
        alone.gradients / 4 if engine.startswith("zero") else 0
    )  # weights in fp32 in addition to those of the model
    assert shared.weights == pytest.approx(alone.weights / share[0], rel=0.02)
    assert shared.gradients == pytest.approx(alone.gradients / share[1], rel=0.02)
    assert shared.optimizer == pytest.approx(alone.optimizer / share[2] + masters, rel=0.02)


def test_ddp_holds_gradients_twice_and_one_process_holds_them_once(stage_for):
    stage = stage_for("sft")
    alone, ddp = plan_memory(stage, CPU), plan_memory(stage, CPU, Launch(2))
    assert ddp.peak == alone.peak + alone.roles[0].gradients
    assert {plan_memory(stage, CPU, Launch(1, engine)).peak for engine in LAUNCH_ENGINES} == {alone.peak}


def test_fsdp2_gathers_a_layer_and_a_tied_head_with_the_embeddings(stage_for, folder_of):
    shape = {**SHAPE_100M, "num_hidden_layers": 2}
    roles = {
        tied: roles_of(stage_for("sft", model_name_or_path=folder_of({**shape, "tie_word_embeddings": tied})))[0]
        for tied in (False, True)
    }
    open_head, tied = (gathered_by_layers(roles[tied], half=False, together=False) for tied in (False, True))
    layer = 4 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768)
    assert open_head.layer == tied.layer == open_head.layer_gradients == layer
    assert open_head.root == 0 and tied.head == 0
    assert open_head.head == tied.root == open_head.embedding + 4 * 768  # with the last norm
    half = gathered_by_layers(roles[False], half=True, together=False)
    assert (half.layer, half.head) == (layer // 2, open_head.head // 2)


def test_what_processes_send(stage_for):
    stage = stage_for("sft", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    stage = replace(stage, config=replace(stage.config, micro_batches_by_length=False))
    roles = roles_of(stage)
    weights = 4 * sum(weight.count for weight in roles[0].weights)
    sent = {engine: sent_bytes(stage, roles, Launch(4, engine)) for engine in LAUNCH_ENGINES}
    in_two_passes = {"ddp": 2, "zero2": 3, "fsdp2": 5, "zero3": 6}
    assert sent == {engine: pytest.approx(count * weights * 3 / 4) for engine, count in in_two_passes.items()}
    half = replace(stage, config=replace(stage.config, bf16=True))
    sent = {engine: sent_bytes(half, roles, Launch(4, engine)) for engine in LAUNCH_ENGINES}
    in_two_passes = {"ddp": 2, "zero2": 1.5, "fsdp2": 3, "zero3": 3}  # FSDP2 sums gradients in float32
    assert sent == {engine: pytest.approx(count * weights * 3 / 4) for engine, count in in_two_passes.items()}
    by_length = replace(stage, config=replace(stage.config, micro_batches_by_length=True, max_tokens_per_micro_batch=1))
    passes = 4  # of one row; FSDP2 sums after each
    assert sent_bytes(by_length, roles, Launch(4, "fsdp2")) == pytest.approx(3 * passes * weights * 3 / 4)
    lora = stage_for("sft", **LORA)
    trained = sum(weight.count for weight in roles_of(lora)[0].trained)
    assert sent_bytes(lora, roles_of(lora), Launch(4)) == 4 * trained * 2 * 3 // 4
    assert sent_bytes(lora, roles_of(lora), ALONE) == 0


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, ALONE),
        ({"WORLD_SIZE": "4"}, Launch(4)),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, Launch(4, "fsdp2", 2)),
        ({"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true", FSDP_REPLICAS: "2"}, Launch(2, "fsdp2")),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, Launch(2, "zero2")),
    ],
)
def test_a_run_plans_the_launch_that_it_is_in(monkeypatch, variables, launch):
    for name, value in {"FSDP_VERSION": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    assert this_launch({}) == launch


def test_fsdp2_keeps_whole_gradients_where_it_sums_them_once(stage_for):
    stage = stage_for("sft", gradient_accumulation_steps=4, per_device_train_batch_size=1)
    once, each = (
        plan_memory(replace(stage, config=replace(stage.config, micro_batches_by_length=each)), CPU, Launch(4, "fsdp2"))
        for each in (False, True)
    )
    whole = 4 * sum(weight.count for weight in roles_of(stage)[0].weights)
    assert once.phases["loss"] - each.phases["loss"] == pytest.approx(whole * 3 / 4, rel=1e-3)


def test_ppo_samples_from_whole_weights_under_fsdp2(stage_for):
    stage = stage_for("ppo", use_peft=False)
    alone, shared = plan_memory(stage, CPU), plan_memory(stage, CPU, Launch(2, "fsdp2"))
    policy = roles_of(stage)[0]
    whole = sum(weight.count * weight.itemsize for weight in policy.weights)
    assert shared.phases["rollout"] == alone.phases["rollout"] + whole
    assert sum(role.weights for role in shared.roles) == pytest.approx(
        sum(role.weights for role in alone.roles) / 2, rel=1e-3
    )


EPISODES = {"use_peft": False, "total_episodes": 12, "num_ppo_epochs": 1, "num_mini_batches": 1, "max_steps": -1}
EPISODES |= {"gradient_accumulation_steps": 1, "response_length": 32, "max_prompt_length": 96}
MEASURED = json.loads((ROOT / "benchmarks/records/NVIDIA-H200/fsdp2_memory.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: f"{case['processes']}-{case['num_hidden_layers']}")
def test_the_peak_under_fsdp2_is_that_of_a_gpu(case, folder_of, stage_for):
    """The libraries are in neither figure."""
    shape = {"model_type": "llama", "num_key_value_heads": 8, "max_position_embeddings": 2048}
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "num_attention_heads")
    shape |= {name: case[name] for name in (*names, "tie_word_embeddings")}
    settings = {name: case[name] for name in ("gradient_checkpointing", "gradient_accumulation_steps")}
    settings |= {"bf16": True, "loss_type": "nll", "max_length": 2048, "per_device_train_batch_size": 1}
    settings |= {"optim": "adamw_torch_fused", "micro_batches_by_length": False}
    stage = stage_for("sft", model_name_or_path=folder_of(shape, weights=False), **settings)
    plan = plan_memory(stage, Device("a card", 10**12, 0, is_gpu=True), Launch(case["processes"], "fsdp2"))
    standing = sum(role.weights + role.optimizer for role in plan.roles)
    assert standing == pytest.approx(case["standing_gb"] * 1e9, rel=0.05)
    assert plan.peak == pytest.approx(case["peak_gb"] * 1e9, rel=0.15)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "engine", "changes"),
    [
        ("pretrain", "ddp", {}),
        ("pretrain", "fsdp2", {}),
        ("pretrain", "zero2", {}),
        ("pretrain", "zero3", {}),
        ("sft", "fsdp2", {"gradient_accumulation_steps": 2, "micro_batches_by_length": False}),
        ("sft", "fsdp2", {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 1}),
        ("sft", "fsdp2", LORA),
        ("sft", "fsdp2", {**LORA, "load_in_4bit": True}),
        ("sft", "zero3", LORA),
        ("sft", "zero3", {**LORA, "load_in_4bit": True}),
        ("ppo", "fsdp2", {**FUNCTIONS, **EPISODES}),
    ],
)
def test_the_peak_is_the_resident_memory_of_each_process(name, engine, changes, folder_of, tokenizer_dir, tmp_path):
    if engine.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    values = {"datasets": [{"path": str(rows)}], "per_device_train_batch_size": 2, "max_steps": 2, "max_dropped": 1.0}
    values |= {"save_strategy": "no", "output_dir": str(tmp_path / "out"), **changes}
    if name == "pretrain":
        values |= {"model_config": SHAPE_100M, "tokenizer_name_or_path": str(tokenizer_dir), "block_size": 64}
    else:
        layers = (
            6 if name == "ppo" or engine == "zero3" else 12
        )  # PPO holds several; ZeRO-3 gathers each matrix by itself
        values["model_name_or_path"] = folder_of({**SHAPE_100M, "num_hidden_layers": layers})
        values |= {} if name == "ppo" else {"max_length": 64}
    for planned, measured, taken in resident_memory(name, values, engine):
        print(name, engine, *(f"{size / 1e6:.0f}" for size in (planned, measured, taken)), "MB")
        assert planned == pytest.approx(measured, rel=0.15)
