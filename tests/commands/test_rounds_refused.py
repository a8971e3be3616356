"""Problems of a pipeline with rounds, which are reported before anything runs."""

from pathlib import Path

import pytest
import yaml
from rounds_pipelines import write_rounds

from hfkit.commands.run import run as run_pipeline
from hfkit.commands.web.server import open_socket
from hfkit.core.errors import ConfigError
from hfkit.stages.read_configs import read_configs


def problem_keys(path: Path, flags: list[str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        run_pipeline(path, flags=flags)
    assert not (path.parent / "runs").exists()
    return [problem.key for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("rounds", "flags", "keys"),
    [
        ({"count": 0}, [], ["rounds.count"]),
        ({}, ["--rounds.count", "many"], ["rounds.count"]),
        ({"num_samples": 1}, [], ["rounds.num_samples"]),
        ({"num_sample": 3}, [], ["rounds.num_sample"]),
        ({"temperature": -1}, [], ["rounds.temperature"]),
        ({"prompts": ["none.jsonl"]}, [], ["rounds.prompts[0].path"]),
        ({"reward_function": "none:f"}, [], ["rounds.reward_function"]),
        ({"judge": "reward", "reward_function": None}, [], ["rounds.reward_model"]),
        (
            {"evaluate": {"judge": "function", "prompts": ["none.jsonl"]}},
            [],
            ["rounds.evaluate.prompts[0].path", "rounds.evaluate.reward_function"],
        ),
        (
            {"evaluate": {"models": ["a"], "judge": "human", "prompts": ["none.jsonl"]}},
            [],
            ["rounds.evaluate.models", "rounds.evaluate.prompts[0].path"],
        ),
        (
            {},
            ["--ppo.num_mini_batches", "3", "--reward.max_length", "-1"],
            ["ppo.num_mini_batches", "reward.max_length"],
        ),
        ({}, ["--ppo.reward_model_path", "mine"], ["ppo.reward_model_path"]),
    ],
)
def test_problems_of_rounds_and_stages_are_reported_before_anything_runs(tmp_path, data, sft_dir, rounds, flags, keys):
    found = problem_keys(write_rounds(tmp_path, data, sft_dir, rounds), flags)
    assert sorted(key.removeprefix("--") for key in found) == sorted(keys)


def test_a_port_in_use_is_reported_before_anything_runs(tmp_path, data, sft_dir):
    with open_socket("127.0.0.1", 0) as taken:
        taken.listen()
        rounds = {"judge": "human", "reward_function": None, "port": taken.getsockname()[1]}
        assert problem_keys(write_rounds(tmp_path, data, sft_dir, rounds)) == ["rounds.port"]


def test_rounds_need_a_reward_model_and_one_stage_that_samples(tmp_path, data, sft_dir):
    path = write_rounds(tmp_path, data, sft_dir)
    content = yaml.safe_load(path.read_text())
    for stages in ({"reward": content["stages"]["reward"]}, {"ppo": content["stages"]["ppo"]}):
        path.write_text(yaml.safe_dump({**content, "stages": stages}))
        assert problem_keys(path) == ["stages"]


def test_a_plan_refuses_rounds_by_their_key(tmp_path, data, sft_dir):
    with pytest.raises(ConfigError) as raised:
        read_configs(str(write_rounds(tmp_path, data, sft_dir)), None, None, [])
    assert [problem.key for problem in raised.value.problems] == ["rounds"]
