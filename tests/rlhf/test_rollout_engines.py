"""PPO with each engine, also over a 4-bit base: it learns from the policy's own log-probabilities."""

import json

import pytest

from hfkit.core.errors import ConfigError
from hfkit.models.loading import load_policy
from hfkit.models.merged_copies import MergedCopies
from hfkit.records.metrics_file import read_metrics
from hfkit.rlhf.rollout import copies_that_fit

FOUR_BITS = {"load_in_4bit": True, "use_peft": True}


def record_of(folder) -> dict:
    return json.loads((folder / "hfkit.json").read_text())


@pytest.fixture(scope="module")
def sft_4bit(run_stage, tmp_path_factory):
    return str(run_stage("sft", tmp_path_factory.mktemp("sft") / "sft", **FOUR_BITS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "transformers.generate, adapter merged"),
        ({"bf16": True}, "transformers.generate, bf16, adapter merged"),
        ({"merge_in_rollouts": False}, "transformers.generate"),
        ({"rollout_engine": "continuous", "bf16": True}, "transformers.continuous, adapter merged"),
        ({"rollout_engine": "static"}, "transformers.static, adapter merged"),
    ],
    ids=str,
)
def test_over_a_4_bit_base(run_stage, sft_4bit, reward_dir, tmp_path, capsys, changes, name):
    models = {"model_name_or_path": sft_4bit, "reward_model_path": str(reward_dir)}
    folder = run_stage("ppo", tmp_path / "ppo", **FOUR_BITS, **models, **changes)
    assert record_of(folder)["rollout_engine"] == name
    reported = capsys.readouterr()
    assert ("copies of the 4-bit base" in reported.out + reported.err) is ("merged" in name)
    rows = [row for row in read_metrics(folder) if "objective/kl" in row]
    # policy and reference compute alike at first, whatever the copies that the responses came from
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["objective/kl"] != 0


def test_copies_that_do_not_fit_are_left_out(sft_dir, capsys):
    copies = MergedCopies(load_policy(str(sft_dir))[0])
    assert copies_that_fit(copies, needed=10**6, free=copies.bytes + 10**6) is copies
    assert copies_that_fit(copies, needed=10**6, free=copies.bytes + 10**6 - 1) is None
    reported = capsys.readouterr()
    assert "do not fit" in reported.out + reported.err


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"rollout_engine": "static", "use_peft": True, "load_in_8bit": True}, "in 8 bits"),
        ({"rollout_engine": "static", **FOUR_BITS, "merge_in_rollouts": False}, "without merge_in_rollouts"),
        ({"rollout_engine": "continuous", "attn_implementation": "flex_attention"}, "flex_attention"),
        ({"rollout_engine": "sglang"}, "generate, static, continuous, vllm"),
    ],
    ids=str,
)
def test_what_an_engine_cannot_do_is_refused_before_anything_is_loaded(config_of, tmp_path, changes, remedy):
    with pytest.raises(ConfigError) as error:
        config_of("ppo", tmp_path, **changes)
    assert [problem.key for problem in error.value.problems] == ["rollout_engine"]
    assert remedy in str(error.value)
