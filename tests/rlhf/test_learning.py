"""PPO learns: what a function rewards becomes more frequent, on prompts that were not trained on, at a KL within
bounds.

The slow test wants a small model of stories, as that of 260,000 parameters of llama2.c; STORY_MODEL names its folder.
"""

import os
import re

import pytest

from hfkit.config.parsing import load_config
from hfkit.config.stages import PPOConfig
from hfkit.records.record import read_record
from hfkit.stages.checks.stage import problems_of
from hfkit.stages.ppo import main

STORY_MODEL = os.environ.get("STORY_MODEL", "")
ALONE = {"reward_model_path": None, "num_mini_batches": 1, "gradient_accumulation_steps": 1}


def letters(prompts, replies) -> list[float]:
    return [float(len(re.findall("[a-z]", reply))) for reply in replies]


def joy(prompts, replies) -> list[float]:
    return [float(len(re.findall(r"\b(?:happy|fun|smil\w+|love\w*|hug\w*)\b", reply))) for reply in replies]


def test_a_small_model_says_what_is_rewarded(run_stage, data, tmp_path):
    folder = run_stage(
        "ppo",
        tmp_path / "out",
        **ALONE,
        reward_functions=[f"{__name__}:letters"],
        datasets=[{"path": str(data / "turns.jsonl")}],
        test_split_size=8,
        use_peft=False,
        learning_rate=3e-2,
        num_ppo_epochs=4,
        per_device_train_batch_size=16,
        total_episodes=96,
    )
    metrics = read_record(folder)["metrics"]
    assert metrics["eval_reward_ppo"] > 3 * metrics["eval_reward_sft"]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir(STORY_MODEL), reason="STORY_MODEL names no folder of a model of stories")
def test_a_story_model_triples_its_words_of_joy_within_a_thousand_replies(tmp_path, rows_file):
    """At a KL below 30 nats a response, throughout."""
    names, animals = "Tim Lily Ben Sue Max Mia Sam Amy Tom Zoe".split(), "cat dog bird bear fox frog duck fish".split()
    rows = [
        {"prompt": f"Once upon a time, there was a {size} {animal} named {name}."}
        for name in names
        for animal in animals
        for size in ("little", "big")
    ]
    config = {
        "model_name_or_path": STORY_MODEL,
        "datasets": rows_file(rows),
        "test_split_size": 60,
        "reward_functions": [f"{__name__}:joy"],
        "use_peft": True,
        "max_prompt_length": 64,
        "response_length": 40,
        "temperature": 1.0,
        "total_episodes": 800,
        "per_device_train_batch_size": 20,
        "learning_rate": 5e-4,
        "kl_coef": 0.1,
        "max_kl": 30.0,
    }
    record = read_record(main(load_config(PPOConfig, config, problems_of, output_dir=str(tmp_path / "out"))))
    metrics = record["metrics"]
    assert record["episodes"] == 800 and "stopped" not in record
    assert metrics["eval_reward_ppo"] > 3 * metrics["eval_reward_sft"]
    assert metrics["kl_max"] < 30
