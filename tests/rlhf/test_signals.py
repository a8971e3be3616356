"""A signal at any moment of PPO: the checkpoint is that of the last update, and the resumed run ends alike."""

import os
import signal
from functools import cache

import pytest
from interruption import assert_same_run
from processes import launch

from hfkit.core import interrupts
from hfkit.core.interrupts import Interrupted
from hfkit.records.record import read_record
from hfkit.rlhf import trainer as rlhf_trainer
from hfkit.rlhf.experience import ExperienceMaker
from hfkit.rlhf.rollout import Rollouts
from hfkit.rlhf.update import Updater

pytestmark = pytest.mark.slow
CHANGES = {"eval_strategy": "steps", "eval_steps": 1, "test_split_size": 2, "max_steps": 3, "save_total_limit": None}
CHANGES |= {"save_steps": 3, "normalize_rewards": True, "logging_steps": 1}
CHANGES |= {"early_stopping_patience": 9, "sample_steps": 1, "reward_functions": ["reward_functions:drawn"]}
MOMENTS = {
    "rollout": (Rollouts, "sample"),
    "scoring": (ExperienceMaker, "__call__"),
    "update": (Updater, "__call__"),
    "evaluation": (rlhf_trainer, "evaluate_policy"),
}


@pytest.fixture(scope="module")
def whole(run_stage, tmp_path_factory):
    """The uninterrupted run."""
    return cache(lambda: run_stage("ppo", tmp_path_factory.mktemp("ppo") / "whole", **CHANGES))


@pytest.mark.parametrize(("moment", "saved"), [("rollout", 1), ("update", 2), ("evaluation", 2), ("scoring", 1)])
def test_ppo_is_interrupted_and_ends_alike(run_stage, whole, monkeypatch, tmp_path, moment, saved):
    owner, name = MOMENTS[moment]
    own, calls = getattr(owner, name), []

    def interrupted(*given, **options):
        calls.append(name)
        if len(calls) == 2 and moment != "scoring":
            os.kill(os.getpid(), signal.SIGUSR1)
        made = own(*given, **options)
        if len(calls) == 2:  # the normalizer of the rewards has changed
            os.kill(os.getpid(), signal.SIGUSR1)
        return made

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as raised:
        patch.setattr(owner, name, interrupted)
        patch.setattr(interrupts, "REPEAT_SECONDS", 600)  # on a slow machine, the second signal would end it at once
        run_stage("ppo", tmp_path / "ppo", **CHANGES)
    assert raised.value.code == 143
    assert read_record(tmp_path / "ppo")["signal"] == "SIGUSR1"
    run_stage("ppo", tmp_path / "ppo", **CHANGES, resume_from_checkpoint=True)
    assert read_record(tmp_path / "ppo")["resumed_from"] == f"checkpoint-{saved}"
    assert_same_run(tmp_path / "ppo", whole())
    assert (tmp_path / "ppo" / "rollouts.jsonl").read_text() == (whole() / "rollouts.jsonl").read_text()


def end_by_signal(config) -> None:
    """Run PPO in each process of a launch; the second one gets a signal in a rollout, and both of them end by it."""
    from hfkit.stages import ppo

    own, calls = Rollouts.sample, []

    def sample(*given):
        calls.append(given)
        if len(calls) == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return own(*given)

    Rollouts.sample = sample
    with pytest.raises(Interrupted):
        ppo.main(config)


def test_processes_of_which_one_gets_a_signal_end_at_the_same_step(config_of, tmp_path):
    changes = {"gradient_accumulation_steps": 1, "num_mini_batches": 1, "max_steps": 3, "save_steps": 3}
    launch(train, config_of("ppo", tmp_path / "whole", **changes))
    launch(end_by_signal, config_of("ppo", tmp_path / "out", **changes))
    assert read_record(tmp_path / "out")["status"] == "interrupted"
    launch(train, config_of("ppo", tmp_path / "out", **changes, resume_from_checkpoint=True))
    assert read_record(tmp_path / "out")["resumed_from"] == "checkpoint-1"
    assert_same_run(tmp_path / "out", tmp_path / "whole")


def train(config) -> None:
    from hfkit.stages import ppo

    ppo.main(config)
