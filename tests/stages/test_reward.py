"""The reward stage: it learns to rank, saves its head, and reports the rows that it drops."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_models import model_of

import hfkit
from hfkit.core.errors import ConfigError, HfkitError
from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record


@pytest.mark.any_device
def test_the_folder_is_an_adapter_with_a_trained_head_of_one_label(reward_dir, base_dir):
    config = json.loads((reward_dir / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert "score" in config["modules_to_save"]
    assert config["base_model_name_or_path"] == str(base_dir)
    heads = [value for name, value in load_file(reward_dir / "adapter_model.safetensors").items() if "score" in name]
    assert [tuple(head.shape) for head in heads] == [(1, 32)]


@pytest.mark.slow
@pytest.mark.any_device
def test_the_head_is_trained(run_stage, reward_dir, tmp_path):
    still = run_stage("reward", tmp_path / "still", learning_rate=0)
    heads = [load_file(folder / "adapter_model.safetensors") for folder in (still, reward_dir)]
    name = next(name for name in heads[0] if "score" in name)
    assert not torch.equal(heads[0][name], heads[1][name])


@pytest.mark.any_device
def test_pain_25_separable_pairs_are_ranked_and_a_pretrained_start_warns(run_stage, base_dir, tmp_path, capsys):
    folder = run_stage("reward", tmp_path / "out", max_steps=20, test_split_size=16)
    metrics = read_record(folder)["metrics"]
    assert metrics["eval_accuracy"] >= 0.95
    assert metrics["eval_margin"] > 0
    reward = hfkit.load_reward(str(folder))
    prompts = ["What does Hal like?"] * 2
    better, worse = reward(prompts, ["Hal likes blue, thank you.", "blue"])
    assert better > worse
    assert "learns more from the SFT model" not in capsys.readouterr().err
    run_stage("reward", tmp_path / "raw", model_name_or_path=str(base_dir), max_steps=1)
    assert "learns more from the SFT model" in capsys.readouterr().err


@pytest.mark.slow
def test_conversations_and_margins_train(run_stage, tmp_path, rows_file):
    ask = {"role": "user", "content": "What does Ann like?"}
    replies = [[ask, {"role": "assistant", "content": reply}] for reply in ("Ann likes red.", "red")]
    rows = [{"chosen": replies[0], "rejected": replies[1], "margin": 1.0}] * 8
    folder = run_stage("reward", tmp_path / "out", datasets=rows_file(rows), test_split_size=None, max_steps=2)
    rows = [{"chosen": replies[0], "rejected": replies[1]}] * 8
    plain = run_stage(
        "reward", tmp_path / "plain", datasets=rows_file(rows, "plain.jsonl"), test_split_size=None, max_steps=2
    )
    first = [next(row["loss"] for row in read_metrics(path) if "loss" in row) for path in (folder, plain)]
    assert first[0] > first[1]  # the margin is not reached yet


def test_held_out_rows_that_exceed_a_sliding_window_are_scored_as_separate_responses(
    run_stage, tokenizer, rows_file, tmp_path
):
    """The training rows do not: what both responses begin with could be computed once for them."""
    model = model_of("sliding window", len(tokenizer), spread=0.3)
    model.config.sliding_window = 48
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    question, replies = "What does Ann like? ", {"chosen": "red.", "rejected": "blue, but only on Mondays."}
    settings = {
        "datasets": rows_file([{"prompt": question, **replies}] * 8),
        "eval_datasets": rows_file([{"prompt": question * 6, **replies}] * 4, "held-out.jsonl"),
        "test_split_size": None,
        "model_name_or_path": str(tmp_path / "model"),
        "max_length": 128,
        "max_steps": 1,
    }
    losses = [
        read_record(run_stage("reward", tmp_path / str(cut), micro_batches_by_length=cut, **settings))["metrics"]
        for cut in (True, False)
    ]
    assert losses[0]["eval_loss"] == pytest.approx(losses[1]["eval_loss"], rel=1e-5)


def test_a_response_is_scored_at_its_last_token_even_if_that_is_the_pad_token(reward_dir):
    """Some models end their responses with the pad token of other models."""
    reward = hfkit.load_reward(str(reward_dir))
    ids = reward.tokenizer("What does Ann like? red").input_ids
    rows = [ids, [*ids, reward.tokenizer.pad_token_id], [*ids, *ids]]
    states = [reward.model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1] for row in rows]
    head = reward.model.get_base_model()
    expected = torch.stack([head.score(state)[0, -1, 0] for state in states])
    assert torch.allclose(reward.score_ids(rows), expected, atol=1e-6)
    assert expected[0] != expected[1]


@pytest.mark.slow
def test_a_full_model_can_be_trained(run_stage, tmp_path):
    folder = run_stage("reward", tmp_path / "out", use_peft=None, max_steps=2)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert hfkit.load_reward(str(folder))(["What does Ann like?"], ["red"]).shape == (1,)


def test_the_rank_of_the_starting_adapter_cannot_be_changed(config_of, tmp_path):
    with pytest.raises(ConfigError, match="the adapter that training starts from has 4: remove it"):
        config_of("reward", tmp_path, lora_r=8)


def test_pain_22_pairs_lost_to_max_length_are_reported_and_too_many_fail(run_stage, tmp_path, rows_file, capsys):
    rows = [{"prompt": "What?", "chosen": f"red {number}, thank you", "rejected": "red"} for number in range(16)]
    rows[3]["rejected"] = "red and blue and green " * 30
    datasets = rows_file(rows)
    folder = run_stage("reward", tmp_path / "out", datasets=datasets, test_split_size=None, max_steps=1)
    assert "train: 16 rows, 15 kept, 1 dropped (1 longer than max_length=64)" in capsys.readouterr().out
    assert read_record(folder)["data"]["train"]["dropped"] == {"longer than max_length=64": 1}
    with pytest.raises(HfkitError, match="raise max_length"):
        run_stage("reward", tmp_path / "other", datasets=datasets, test_split_size=None, max_length=8)


@pytest.mark.slow
def test_a_bf16_base_trains_a_reward_model_without_autocast(run_stage, tmp_path):
    folder = run_stage("reward", tmp_path / "reward", dtype="bfloat16")
    assert read_record(folder)["status"] == "done"
    assert hfkit.load_reward(str(folder), dtype="bfloat16")(["Who?"], ["Ann."]).isfinite().all()
