"""Configs of TRL show their stage by their keys, and train on the tokens that TRL 1.12 trains on."""

import json

import pytest
import yaml
from foreign_fixtures import values

from hfkit.cli import main
from hfkit.commands.init.foreign import read_foreign


@pytest.fixture
def stage_of(tmp_path):
    """stage_of(text) -> the stage of a config."""

    def of(text: str) -> str:
        file = tmp_path / "theirs.yaml"
        file.write_text(text)
        return read_foreign(str(file), None).stage

    return of


@pytest.mark.parametrize(
    ("keys", "stage"),
    [
        ("packing: true", "sft"),
        ("assistant_only_loss: true", "sft"),
        ("center_rewards_coefficient: 0.01", "reward"),
        ("beta: 0.1\nmax_length: 512", "dpo"),
        ("precompute_ref_log_probs: true", "dpo"),
        ("reward_funcs: [r.f]\nloss_type: dapo", "grpo"),
        ("scale_rewards: none", "grpo"),
        ("normalize_advantages: true", "rloo"),
        ("num_ppo_epochs: 4", "ppo"),
    ],
)
def test_keys_show_the_stage(keys, stage, stage_of):
    assert stage_of(f"model_name_or_path: m\ndataset_name: d\nlearning_rate: 1.0e-5\n{keys}") == stage


@pytest.mark.parametrize(
    ("keys", "stages"),
    [
        ("max_length: 512", "sft, reward, dpo"),
        ("beta: 0.1", "dpo, grpo, rloo"),
        ("reward_funcs: [r.f]", "grpo, rloo"),
    ],
)
def test_keys_of_several_stages_ask_for_one_of_them(keys, stages, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text(f"model_name_or_path: m\ndataset_name: d\n{keys}")
    assert main(["init", "--from", "theirs.yaml"]) == 2
    assert f"--goal: missing -> a config of TRL does not show its stage: name it, one of {stages}\n" in (
        capsys.readouterr().err
    )


def test_a_mixture_without_a_dataset_name_is_one_of_trl(translated):
    mixture = "datasets: [{path: json, data_files: mine.jsonl}, {path: someone/some, name: en}]"
    found = translated(f"model_name_or_path: m\npacking: true\n{mixture}")
    assert values(found)["datasets"] == [{"path": "mine.jsonl"}, {"path": "someone/some", "name": "en"}]


def test_a_command_with_a_config(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "sft.yaml").write_text("model_name_or_path: m\ndataset_name: d\nlearning_rate: 1.0e-5\n")
    (tmp_path / "jobs" / "train.sh").write_text("set -e\ntrl sft \\\n  --config sft.yaml --learning_rate 2e-5\n")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--from", "jobs/train.sh"]) == 0
    written = yaml.safe_load((tmp_path / "sft.yaml").read_text())
    assert (written["learning_rate"], written["datasets"]) == (2e-5, [{"path": "d"}])


def test_text_has_the_tokens_of_trl_with_the_template_that_is_written(base_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "The sky is", "completion": " blue."}) + "\n")
    theirs = f"model_name_or_path: {base_dir}\ndataset_name: rows.jsonl\nmax_length: 64\npacking: false\n"
    (tmp_path / "theirs.yaml").write_text(theirs)
    assert main(["init", "--from", "theirs.yaml"]) == 0
    assert "to decide: chat_template: missing -> TRL writes prompts that are text" in capsys.readouterr().out
    assert main(["data", "preview", "sft.yaml", "--chat_template", "text.jinja"]) == 0
    assert "\nThe sky is[[ blue.<|endoftext|>]]\n" in capsys.readouterr().out


def test_two_stages_share_the_template_for_text_unless_it_was_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text("model_name_or_path: m\ndataset_name: d\n")
    assert [main(["init", "--from", "theirs.yaml", "--goal", goal]) for goal in ("sft", "dpo")] == [0, 0]
    (tmp_path / "text.jinja").write_text("mine")
    assert main(["init", "--from", "theirs.yaml", "--goal", "reward"]) == 2
    assert "text.jinja' -> exists, and no file is overwritten" in capsys.readouterr().err
    assert (tmp_path / "text.jinja").read_text() == "mine" and not (tmp_path / "reward.yaml").exists()


def test_reward_functions_of_trl_itself_are_left_to_decide(translated):
    text = "model_name_or_path: m\ndataset_name: d\nnum_generations: 4\nreward_funcs: "
    found = translated(f"{text}[accuracy_reward, mine.length]", "grpo")
    assert "reward_funcs" in {one.key for one in found.undecided} and "reward_functions" not in found.settings
    assert values(translated(f"{text}mine.rewards.length", "grpo"))["reward_functions"] == ["mine.rewards:length"]


def test_differences_of_trl_are_named(translated):
    of_all = translated("model_name_or_path: m\ndataset_name: d\npacking: true\nassistant_only_loss: false")
    assert [one.key for one in of_all.differences] == ["assistant_only_loss"]
    assert not translated("model_name_or_path: m\ndataset_name: d\nassistant_only_loss: true").differences
    grpo = translated("model_name_or_path: m\ndataset_name: d\nuse_peft: true", "grpo")
    assert [one.key for one in grpo.differences] == ["lora_dropout"]
    sampled = translated(
        "model_name_or_path: m\ndataset_name: d\ntop_p: 0.9\ntop_k: 0\nshuffle_dataset: false\nsync_ref_model: true",
        "rloo",
    )
    assert [one.key for one in sampled.differences] == ["top_p", "shuffle_dataset", "sync_ref_model"]
    assert [*sampled.needless] == ["top_k"]  # the default, with which hfkit samples
    in_4bit = "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nload_in_4bit: true"
    assert values(translated(in_4bit, "sft"))["use_bnb_nested_quant"] is False
    assert "use_bnb_nested_quant" not in values(translated("model_name_or_path: m\ndataset_name: d", "sft"))
