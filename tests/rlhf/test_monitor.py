"""Signs that PPO goes wrong, told from the metrics of its updates: each when it shows, once, with the key to change."""

import math
import re

import pytest

from hfkit.rlhf.monitor import WINDOW, TrainingMonitor, repetition_share

HEALTHY = {
    "objective/kl": 1.0,
    "objective/scores": 0.5,
    "objective/entropy": 2.0,
    "loss/policy_avg": 0.01,
    "loss/value_avg": 0.1,
    "policy/grad_norm": 0.4,
    "val/reply_length": 20.0,
    "val/repetition": 0.1,
    "val/explained_variance": 0.3,
}
BETTER = {"objective/scores": 1.5}
SIGNS = {
    "entropy": ({"objective/entropy": 0.3}, r"entropy fell from 2\.00 to 0\.30 .* raise kl_coef or entropy_coef"),
    "length": ({**BETTER, "val/reply_length": 45.0}, r"grow from 20 to \d+ tokens.* missing_eos_penalty"),
    "repetition": ({**BETTER, "val/repetition": 0.6}, r"\d+% of .* three-token runs repeat.* raise kl_coef"),
    "value": ({"val/explained_variance": -0.2}, r"less than a constant would \(-0\.\d\d\).* value_warmup_steps"),
}


def signs_of(watch: TrainingMonitor, *updates: dict) -> list[str]:
    return [sign for update in updates for sign in watch.signs(HEALTHY | update)]


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_told_once_with_the_key_to_change(name):
    change, line = SIGNS[name]
    watch = TrainingMonitor(max_kl=20.0)
    assert signs_of(watch, *[{}] * WINDOW) == []
    told = signs_of(watch, *[change] * 2 * WINDOW)
    assert len(told) == 1
    assert re.search(line, told[0]), told[0]


def test_no_sign_in_a_healthy_run():
    growing = [{"objective/scores": 0.5 + step / 100, "val/reply_length": 20 + step / 10} for step in range(60)]
    assert signs_of(TrainingMonitor(max_kl=20.0), *growing) == []


def test_longer_replies_are_no_sign_where_the_reward_does_not_rise():
    assert signs_of(TrainingMonitor(max_kl=20.0), *[{}] * WINDOW, *[{"val/reply_length": 80.0}] * WINDOW) == []


def test_one_odd_update_is_no_sign():
    assert signs_of(TrainingMonitor(max_kl=20.0), *[{}] * WINDOW, {"objective/entropy": 0.0}, *[{}] * WINDOW) == []


def test_a_watch_that_goes_on_tells_the_same():
    """From its state, as JSON keeps it, at every update of a run; and the state does not grow with the run."""
    updates = [{}] * WINDOW + [SIGNS["entropy"][0]] * WINDOW + [SIGNS["value"][0]] * 3 * WINDOW
    watch, again, expected, found = TrainingMonitor(20.0), TrainingMonitor(20.0), [], []
    for update in updates:
        expected += signs_of(watch, update)
        resumed = TrainingMonitor(20.0)
        resumed.load_state_dict(again.state_dict())
        found += signs_of(resumed, update)
        again = resumed
    assert found == expected and len(expected) == 2
    assert len(watch.state_dict()["history"]) == 2 * WINDOW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective/kl": 20.5}, r"KL 20\.50 passed max_kl=20\.0.*raise kl_coef"),
        ({"loss/policy_avg": math.nan}, "loss/policy_avg no longer a number"),
        ({"loss/value_avg": math.inf}, "loss/value_avg no longer a number"),
        ({"objective/kl": math.nan}, "objective/kl no longer a number"),
        ({"policy/grad_norm": math.inf}, "policy/grad_norm no longer a number"),
        ({"objective/scores": math.nan}, "objective/scores no longer a number"),
    ],
    ids=str,
)
def test_what_cannot_be_gone_on_from_stops(changes, reason):
    watch = TrainingMonitor(max_kl=20.0)
    assert watch.stop(HEALTHY) is None
    assert re.search(reason, watch.stop(HEALTHY | changes))


@pytest.mark.parametrize(
    ("reply", "share"),
    [([], 0.0), ([1, 2], 0.0), ([1, 2, 3, 4, 5], 0.0), ([1, 1, 1, 1, 1], 2 / 3), ([1, 2, 3] * 2, 0.25)],
)
def test_repetition_is_the_share_of_three_token_runs_that_were_there_before(reply, share):
    assert repetition_share(reply) == pytest.approx(share)
