"""The planned peak of a stage against all tensors of a run, and against the memory of its process."""

import json
from pathlib import Path

import pytest
from meter import TensorMeter
from planned import CPU, FUNCTIONS, LLAMA, LORA, ONE_BY_ONE, ROWS, plan_8b, run
from resident import SHAPE_100M, resident_memory

from hfkit.models import micro_batches, token_predictions
from hfkit.training.memory.device import Device
from hfkit.training.memory.peak import plan_memory

QUICK_PEAKS = [
    ("pretrain", {}),
    ("dpo", LORA),
]


SLOW_PEAKS = [
    ("pretrain", {"gradient_checkpointing": True}),
    ("pretrain", {"gradient_accumulation_steps": 2, "bf16": True}),
    ("sft", {}),
    ("sft", LORA),
    ("sft", {**LORA, "gradient_checkpointing": True}),
    ("sft", {**LORA, "load_in_4bit": True, "bf16": True}),
    ("sft", {**LORA, "gradient_checkpointing": True, "load_in_4bit": True, "bf16": True}),
    ("sft", {**LORA, "loss_type": "nll"}),
    ("sft", {**LORA, "load_in_4bit": True}),
    ("sft", {**LORA, "loss_type": "dft"}),
    ("sft", {**LORA, "label_smoothing_factor": 0.1}),
    ("pretrain", {"label_smoothing_factor": 0.1}),
    ("pretrain", {"label_smoothing_factor": 0.1, "bf16": True}),
    ("reward", LORA),
    ("reward", {"gradient_checkpointing": True}),
    ("reward", {"form": "rankings", "per_device_train_batch_size": 2}),
    ("dpo", {}),
    ("dpo", {**LORA, "load_in_4bit": True, "bf16": True, "form": "rankings"}),
    ("dpo", {**LORA, "gradient_checkpointing": True}),
    ("dpo", {**LORA, "precompute_ref_log_probs": True}),
    ("dpo", {**LORA, "precompute_ref_log_probs": True, "precompute_ref_batch_size": 32, "bf16": True}),
    ("ppo", LORA),
    ("ppo", {**LORA, **FUNCTIONS}),
    ("ppo", {**LORA, "bf16": True}),
    ("ppo", {**LORA, "gradient_checkpointing": True}),
    ("ppo", {"gradient_checkpointing": True, "response_length": 80}),
    ("ppo", {**LORA, "gradient_checkpointing": True, **ONE_BY_ONE}),
    ("ppo", FUNCTIONS),
    ("grpo", LORA),
    ("grpo", {**LORA, "load_in_4bit": True, "bf16": True, "response_length": 80}),
    ("rloo", {"response_length": 80}),
    ("rloo", {**LORA, "gradient_checkpointing": True, **FUNCTIONS}),
]


@pytest.mark.parametrize(
    ("name", "changes"), [*QUICK_PEAKS, *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW_PEAKS)]
)
def test_the_peak_is_that_of_all_tensors_of_a_run(stage_for, name, changes):
    stage = stage_for(name, **changes, micro_batches_by_length=False)  # else short rows may be computed by themselves
    with TensorMeter() as meter:
        run(stage)
    assert plan_memory(stage, CPU).peak == pytest.approx(meter.peak, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [LORA, {"bf16": True}])
def test_the_peak_of_pairs_is_that_of_the_logits_of_a_large_vocabulary(stage_for, folder_of, changes):
    """TRL 1.15 computes 32768 columns of logits at once."""
    model = folder_of({**LLAMA, "vocab_size": 40_000})
    stage = stage_for("dpo", **changes, model_name_or_path=model, per_device_train_batch_size=1, max_steps=2)
    with TensorMeter() as meter:
        run(stage)
    plan = plan_memory(stage, CPU)
    assert plan.logits > plan.peak / 2
    assert plan.peak == pytest.approx(meter.peak, rel=0.15)


PTX = {"ptx_coef": 0.5, "ptx_datasets": [{"path": "ptx.jsonl"}], "gradient_checkpointing": True}


LONG = {"response_length": 200, "max_tokens_per_micro_batch": 4 * 264}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {**LORA, **FUNCTIONS, **PTX, "ptx_max_length": 400, "micro_batches_by_length": False},
        {**LORA, **FUNCTIONS, **LONG},
        {**LORA, **LONG, "bf16": True},
        {**LONG, "gradient_checkpointing": True},
        {**FUNCTIONS, "max_tokens_per_micro_batch": 768},
    ],
)
def test_the_peak_of_ppo_holds_with_chunks_of_logits_set_tokens_and_a_language_modeling_loss(
    stage_for, tmp_path, monkeypatch, changes
):
    monkeypatch.chdir(tmp_path)
    Path("ptx.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["sft"]))
    monkeypatch.setitem(token_predictions.LOGITS, "cpu", 318 * 64)
    monkeypatch.setattr(micro_batches, "CALL_ON_CPU", 10**6)  # else short rows may be computed by themselves
    stage = stage_for("ppo", **changes)
    with TensorMeter() as meter:
        run(stage)
    assert plan_memory(stage, CPU).peak == pytest.approx(meter.peak, rel=0.15)


def test_short_prompts_leave_room_for_the_logits_of_more_responses(stage_for):
    """128 tokens are one row of the longest prompt and response, or up to 4 responses of 32 tokens."""
    plans = []
    for prompt in (96, 1):
        settings = {"max_prompt_length": prompt, "max_tokens_per_micro_batch": 128, "per_device_train_batch_size": 4}
        plans.append(plan_memory(stage_for("grpo", **settings), CPU).logits)
    assert plans[0] == plans[1]


@pytest.mark.slow
def test_ppo_on_an_8b_llama_fits_into_24_gb(llama_8b, tmp_path):
    card = Device("a card", 24 * 10**9, 600_000_000, is_gpu=True)
    stage = plan_8b(llama_8b, tmp_path, gradient_accumulation_steps=8)
    plan = plan_memory(stage, card)
    assert plan.roles[0].parameters == 8_030_261_248 + 41_943_040
    assert plan.peak < card.capacity
    whole = plan_memory(plan_8b(llama_8b, tmp_path / "whole", load_in_4bit=False), card)
    assert whole.peak > card.capacity


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "changes"),
    [
        ("pretrain", SHAPE_100M, {}),
        ("pretrain", {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 256}, {}),
        ("sft", {**SHAPE_100M, "num_hidden_layers": 20}, {**LORA, "load_in_4bit": True}),
    ],
)
def test_the_peak_is_the_resident_memory_of_a_run(name, shape, changes, folder_of, tokenizer_dir, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    values = {"datasets": [{"path": str(rows)}], "per_device_train_batch_size": 2, "max_steps": 3, "max_dropped": 1.0}
    values |= {"save_strategy": "no", "output_dir": str(tmp_path / "out"), **changes}
    if name == "pretrain":
        values |= {"model_config": shape, "tokenizer_name_or_path": str(tokenizer_dir), "block_size": 64}
    else:
        values |= {"model_name_or_path": folder_of(shape), "max_length": 64}
    ((planned, measured, taken),) = resident_memory(name, values)
    print(f"{name}: planned {planned / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB, libraries {taken / 1e6:.0f} MB")
    assert planned == pytest.approx(measured, rel=0.15)
