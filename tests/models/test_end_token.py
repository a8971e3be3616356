"""A token that ends responses and that a frozen output head cannot tell from others is a warning."""

import shutil
from pathlib import Path

import pytest
import torch
from quick import slow
from safetensors.torch import load_file, save_file

from hfkit.models.end_token import compare_rows, warn_of_end_token
from hfkit.models.loading import load_policy

WARNING = "responses may never end"


@pytest.fixture(scope="module")
def untrained_dir(base_dir, tokenizer, tmp_path_factory) -> Path:
    """A base in which the rows of the token that ends responses and of 20 others are equal before rounding."""
    folder = tmp_path_factory.mktemp("untrained") / "base"
    shutil.copytree(base_dir, folder)
    weights = load_file(folder / "model.safetensors")
    name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    rows = [*range(len(tokenizer) - 21, len(tokenizer) - 1), tokenizer.eos_token_id]
    weights[name][rows] = weights[name][rows[:1]] * (1 + 1e-3 * torch.rand(len(rows), 1))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "hfkit.json").unlink()  # its hash of the weights
    return folder


@pytest.mark.parametrize(
    ("changes", "is_warned"),
    [
        ({}, True),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"lora_target_modules": ["q_proj", "lm_head"]}, False),
        slow({"modules_to_save": ["embed_tokens"]}, True),
        slow({"use_peft": False, "lora_r": None}, False),
    ],
)
def test_sft_warns_of_an_end_token_that_the_adapter_cannot_learn(
    run_stage, untrained_dir, tmp_path, capsys, changes, is_warned
):
    run_stage("sft", tmp_path / "sft", model_name_or_path=str(untrained_dir), max_steps=1, **changes)
    printed = capsys.readouterr().err
    assert (WARNING in printed) == is_warned, printed
    if is_warned:
        assert "cannot tell it from 20 other tokens" in printed and "Set modules_to_save: [lm_head]" in printed


def test_a_trained_end_token_gives_no_warning(run_stage, tmp_path, capsys):
    run_stage("sft", tmp_path / "sft", max_steps=1)
    assert WARNING not in capsys.readouterr().err


@pytest.mark.parametrize(("scale", "is_warned"), [(1e-4, True), (0.1, False)])
def test_a_single_row_that_is_almost_zero_is_warned_about(config_of, tmp_path, base_dir, capsys, scale, is_warned):
    config = config_of("sft", tmp_path / "sft", model_name_or_path=str(base_dir))
    model, tokenizer = load_policy(str(base_dir))
    head = model.get_output_embeddings().requires_grad_(False)
    head.weight[tokenizer.eos_token_id] *= scale
    capsys.readouterr()
    warn_of_end_token(model, tokenizer, config)
    assert ("cannot tell when (its row is almost zero" in capsys.readouterr().err) == is_warned


def test_later_stages_name_the_adapter_to_train_again(run_stage, untrained_dir, tmp_path, capsys):
    sft = run_stage("sft", tmp_path / "sft", model_name_or_path=str(untrained_dir), max_steps=1)
    for stage in ("dpo", "grpo"):
        capsys.readouterr()
        changes = (
            {"reward_model_path": None, "reward_functions": ["reward_functions:length"]} if stage == "grpo" else {}
        )
        run_stage(stage, tmp_path / stage, model_name_or_path=str(sft), max_steps=1, **changes)
        assert f"[lm_head] when you train {sft}, or choose" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_equal_after_rounding_and_different_after_training(dtype):
    torch.manual_seed(0)
    weight = torch.randn(9000, 64)
    weight[10:40] = weight[10] + 1e-4 * torch.randn(30, 64)
    weight[40] = 1.05 * weight[10]
    weight[50:60] = 1e-6 * torch.randn(10, 64)  # rows that are almost zero
    weight = weight.to(dtype)
    found = [compare_rows(weight, None, token) for token in (0, 10, 25, 40, 55, 8999)]
    assert [equal for equal, _ in found] == [0, 29, 29, 0, 9, 0]
    assert [norm < 0.01 for _, norm in found] == [False] * 4 + [True, False]
    bias = torch.zeros(9000, dtype=dtype)
    bias[25] = 1.0
    assert [compare_rows(weight, bias, token)[0] for token in (10, 25)] == [28, 0]


def test_equal_rows_bound_the_probability_of_the_end_token(untrained_dir, tokenizer):
    """Whatever the hidden states are."""
    model, _ = load_policy(str(untrained_dir))
    hidden = torch.randn(100, model.config.hidden_size) * 10
    probabilities = model.lm_head(hidden).softmax(-1)[:, tokenizer.eos_token_id]
    assert probabilities.max() < 1 / 15
