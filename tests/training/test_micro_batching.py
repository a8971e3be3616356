"""A step in micro-batches is the step of the trainers that are wrapped: weights, losses, metrics; and evaluations."""

import json

import pytest
import torch
import trl
from micro_batch_cases import CASES, INSTRUCTIONS, STEPS
from quick import mostly_slow, slow
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hfkit.config.evaluation import EvaluateConfig
from hfkit.core.compat_trl import fuses_head
from hfkit.evaluation.evaluate import evaluate
from hfkit.records.record import read_record
from hfkit.training.embedding_noise import sequence_lengths

ACCUMULATED = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}
SPEEDS = ("runtime", "per_second")


def metrics_of(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith(SPEEDS)} for line in lines]


@pytest.mark.parametrize("batches", mostly_slow([{}, ACCUMULATED], [ACCUMULATED]))
@pytest.mark.parametrize("case", mostly_slow(CASES, ["sft"]))
def test_the_same_training_with_and_without(case, batches, run_stage, rows_file, tmp_path):
    stage, rows, settings = CASES[case]
    settings = settings | {"datasets": rows_file(rows), **STEPS, "per_device_train_batch_size": 6, **batches}
    whole = run_stage(stage, tmp_path / "whole", **settings, micro_batches_by_length=False)
    cut = run_stage(stage, tmp_path / "cut", **settings, max_tokens_per_micro_batch=60)
    weights, same = (load_file(folder / "adapter_model.safetensors") for folder in (whole, cut))
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, rtol=0, atol=2e-6)
    for line, other in zip(metrics_of(whole), metrics_of(cut), strict=True):
        # of accumulated batches, TRL logs the mean of their means; here they are one batch
        names = {"loss", "grad_norm", "learning_rate", "num_input_tokens_seen"} if batches else line.keys()
        line, other = ({key: logged[key] for key in names} for logged in (line, other))
        assert line == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_no_pass_has_more_tokens_than_the_budget(run_stage, rows_file, tmp_path):
    from torch.nn.modules.module import register_module_forward_pre_hook

    sizes = []

    def note(module, args):
        if isinstance(module, torch.nn.Embedding) and torch.is_grad_enabled():
            sizes.append(args[0].numel())

    with register_module_forward_pre_hook(note):
        settings = {**STEPS, "datasets": rows_file(INSTRUCTIONS), "per_device_train_batch_size": 16}
        run_stage("sft", tmp_path / "run", **settings, max_tokens_per_micro_batch=150)
    assert max(sizes) <= 150
    assert len(sizes) > 5


def test_the_noise_of_neftune_depends_on_the_length_of_a_row_alone(run_stage, rows_file, tmp_path):
    from torch.nn.modules.module import register_module_forward_pre_hook

    seen = []

    def note(module, args):
        if isinstance(module, torch.nn.Embedding) and module.training:
            seen.append((module, args[0], []))
        elif type(module).__name__ == "LlamaDecoderLayer" and module.training:
            seen[-1][2].append(args[0].detach())

    settings = {**STEPS, "datasets": rows_file(INSTRUCTIONS), "max_steps": 1, "per_device_train_batch_size": 8}
    settings |= {"neftune_noise_alpha": 5.0, "micro_batches_by_length": False}
    with register_module_forward_pre_hook(note):
        folder = run_stage("sft", tmp_path / "run", **settings)
    (table, ids, (states, *_)), pad = seen[-1], AutoTokenizer.from_pretrained(folder).pad_token_id
    lengths = (ids != pad).sum(1)
    sizes = (states - table.weight[ids]).abs().amax((1, 2)) * (lengths * states.shape[-1]).sqrt()
    assert len(lengths.unique()) > 3 and 4.5 < sizes.amin() < sizes.amax() <= 5.001


def test_conversations_in_a_row_have_their_own_length():
    joined = {"input_ids": torch.ones(2, 5), "position_ids": torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]])}
    assert sequence_lengths(joined).tolist() == [[2, 2, 3, 3, 3], [4, 4, 4, 4, 1]]


@pytest.mark.parametrize("case", mostly_slow(CASES, ["sft"]))
def test_each_step_has_one_forward_pass(case, run_stage, rows_file, tmp_path):
    from torch.nn.modules.module import register_module_forward_pre_hook

    passes = []

    def note(module, args):
        if isinstance(module, torch.nn.Embedding) and module.training:
            passes.append(torch.is_grad_enabled())

    stage, rows, settings = CASES[case]
    settings = settings | {**STEPS, "datasets": rows_file(rows), "micro_batches_by_length": False}
    run_stage(stage, tmp_path / "first", **{**settings, "max_steps": 1})  # makes the model to start from, too
    with register_module_forward_pre_hook(note):
        run_stage(stage, tmp_path / "run", **{**settings, "max_steps": 3})
    assert passes[passes.index(True) :] == [True] * 3  # before the first step, passes test the model


@pytest.mark.parametrize("case", mostly_slow(CASES, ["rankings"]))
def test_held_out_figures_do_not_depend_on_the_batch(case, run_stage, rows_file, tmp_path):
    stage, rows, settings = CASES[case]
    settings = settings | {
        **STEPS,
        "max_steps": 1,
        "datasets": rows_file(rows[21:]),
        "eval_datasets": rows_file(rows[:21], "test.jsonl"),
    }
    found = []
    for size in (1, 16):
        folder = run_stage(stage, tmp_path / str(size), **settings, per_device_eval_batch_size=size)
        found.append({key: value for key, value in read_record(str(folder))["metrics"].items() if "eval" in key})
    assert found[0]["eval_loss"] > 0
    assert found[0] == pytest.approx(found[1], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("packing", mostly_slow(["concatenate", "documents"], ["documents"]))
def test_a_pretrained_model_is_evaluated_as_in_its_training(packing, run_stage, tmp_path):
    settings = {"test_split_size": 8, "max_steps": 2, "label_smoothing_factor": 0.2}  # trained on, but not evaluated
    folder = run_stage("pretrain", tmp_path / "run", packing=packing, **settings)
    assert_evaluated_alike(folder, tmp_path, ("loss", "perplexity", "bits_per_byte"))


@pytest.mark.parametrize("rows", [INSTRUCTIONS, slow([{"text": " ".join(row.values())} for row in INSTRUCTIONS])])
def test_an_sft_model_is_evaluated_as_in_its_training(rows, run_stage, rows_file, tmp_path):
    smoothing = 0.0 if fuses_head(trl.SFTConfig) else 0.2  # no loss of newer TRL has one
    settings = {**STEPS, "datasets": rows_file(rows), "test_split_size": 9, "label_smoothing_factor": smoothing}
    assert_evaluated_alike(run_stage("sft", tmp_path / "run", **settings), tmp_path, ("loss",))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pairs", "rankings"])
def test_a_reward_model_is_evaluated_as_in_its_training(case, run_stage, rows_file, tmp_path):
    _, rows, settings = CASES[case]
    settings = settings | {**STEPS, "datasets": rows_file(rows), "test_split_size": 9}
    names = ("accuracy", "margin", "log_loss", "calibration_error", "reward_mean", "reward_std")
    assert_evaluated_alike(run_stage("reward", tmp_path / "run", **settings), tmp_path, names)


def assert_evaluated_alike(folder, tmp_path, names) -> None:
    """The metrics of `hfkit evaluate` are those of the record."""
    config = EvaluateConfig(model_name_or_path=str(folder), output_dir=str(tmp_path / "evaluation"), response_length=2)
    found = evaluate(config)["metrics"]
    recorded = read_record(str(folder))["metrics"]
    assert {name: recorded[f"eval_{name}"] for name in names} == pytest.approx(
        {name: found[name] for name in names}, rel=1e-6, abs=1e-7
    )
