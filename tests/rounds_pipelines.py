"""Pipelines with rounds, of two tiny stages."""

from pathlib import Path

import yaml
from conftest import TINY

TESTS = Path(__file__).parent
ROUNDS = {"count": 2, "max_prompts": 6, "num_samples": 3, "judge": "function"}
ROUNDS["reward_function"] = f"{TESTS / 'reward_functions.py'}:length"


def write_rounds(folder: Path, data: Path, start: Path, rounds: dict | None = None, **changes) -> Path:
    """Write a pipeline of two stages with rounds, which runs into `folder/runs`; return its file."""
    evaluate = {
        "prompts": [str(data / "prompts.jsonl")],
        "judge": "function",
        "reward_function": ROUNDS["reward_function"],
        "response_length": 8,
        "diversity_prompts": 2,
        "resamples": 20,
    }
    stages = {}
    for stage in ("reward", "ppo"):
        own = {"model_name_or_path": str(start), **TINY[stage][1]}
        own |= {"datasets": [str(data / "prompts.jsonl")]} if stage == "ppo" else {"test_split_size": 0.3}
        stages[stage] = {**own, **changes.get(stage, {})}
    content = {
        "output_dir": str(folder / "runs"),
        "stages": stages,
        "rounds": {**ROUNDS, "evaluate": evaluate, **(rounds or {})},
    }
    (folder / "rounds.yaml").write_text(yaml.safe_dump(content))
    return folder / "rounds.yaml"
