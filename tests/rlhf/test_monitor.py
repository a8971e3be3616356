"""Signs that PPO goes wrong, found in the metrics of its updates: reported once each, with the key to change."""

import math
import re

import pytest

from hfkit.rlhf.monitor import WINDOW, TrainingMonitor, mean_metrics, repetition_share

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
    "repetition": ({**BETTER, "val/repetition": 0.6}, r"\d+% of the three-token runs .* repeat.* raise kl_coef"),
    "value": ({"val/explained_variance": -0.2}, r"worse than a constant .* -0\.\d\d\).* value_warmup_steps"),
}


def signs_of(monitor: TrainingMonitor, *updates: dict) -> list[str]:
    return [sign for update in updates for sign in monitor.new_warnings(HEALTHY | update)]


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_reported_once_with_the_key_to_change(name):
    change, line = SIGNS[name]
    monitor = TrainingMonitor(max_kl=20.0)
    assert signs_of(monitor, *[{}] * WINDOW) == []
    reported = signs_of(monitor, *[change] * 2 * WINDOW)
    assert len(reported) == 1
    assert re.search(line, reported[0]), reported[0]


def test_no_sign_in_a_healthy_run():
    growing = [{"objective/scores": 0.5 + step / 100, "val/reply_length": 20 + step / 10} for step in range(60)]
    assert signs_of(TrainingMonitor(max_kl=20.0), *growing) == []


def test_longer_replies_are_no_sign_where_the_reward_does_not_rise():
    assert signs_of(TrainingMonitor(max_kl=20.0), *[{}] * WINDOW, *[{"val/reply_length": 80.0}] * WINDOW) == []


def test_one_outlier_raises_no_warning():
    assert signs_of(TrainingMonitor(max_kl=20.0), *[{}] * WINDOW, {"objective/entropy": 0.0}, *[{}] * WINDOW) == []


def test_a_resumed_monitor_reports_the_same():
    """From its state, at every update of a run; and the state does not grow with the run."""
    updates = [{}] * WINDOW + [SIGNS["entropy"][0]] * WINDOW + [SIGNS["value"][0]] * 3 * WINDOW
    monitor, again, expected, found = TrainingMonitor(20.0), TrainingMonitor(20.0), [], []
    for update in updates:
        expected += signs_of(monitor, update)
        resumed = TrainingMonitor(20.0)
        resumed.load_state_dict(again.state_dict())
        found += signs_of(resumed, update)
        again = resumed
    assert found == expected and len(expected) == 2
    assert len(monitor.state_dict()["history"]) == 2 * WINDOW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective/kl": 20.5}, r"KL 20\.50 exceeds max_kl=20\.0.*raise kl_coef"),
        ({"loss/policy_avg": math.nan}, "loss/policy_avg is no longer finite"),
        ({"loss/value_avg": math.inf}, "loss/value_avg is no longer finite"),
        ({"objective/kl": math.nan}, "objective/kl is no longer finite"),
        ({"policy/grad_norm": math.inf}, "policy/grad_norm is no longer finite"),
        ({"objective/scores": math.nan}, "objective/scores is no longer finite"),
    ],
    ids=str,
)
def test_metrics_that_cannot_be_trained_on_stop_the_run(changes, reason):
    monitor = TrainingMonitor(max_kl=20.0)
    assert monitor.stop_reason(HEALTHY) is None
    assert re.search(reason, monitor.stop_reason(HEALTHY | changes))


def test_updates_that_train_nothing_are_reported_at_once_and_stop_the_run_if_they_go_on():
    monitor, none = TrainingMonitor(max_kl=20.0, masks_truncated=True), {"val/ended": 0.0}
    assert signs_of(monitor, {"val/ended": 0.1}) == []
    (reported,) = signs_of(monitor, *[none] * (WINDOW - 1))
    assert re.search("no response ended .* raise response_length, or set missing_eos_penalty", reported)
    assert monitor.stop_reason(HEALTHY | none) is None
    assert signs_of(monitor, none) == [] and "in 10 updates in a row" in monitor.stop_reason(HEALTHY | none)
    signs_of(monitor, {"val/ended": 0.1})
    assert monitor.stop_reason(HEALTHY) is None


def test_truncated_responses_that_are_trained_on_are_no_sign():
    monitor = TrainingMonitor(max_kl=20.0)
    assert signs_of(monitor, *[{"val/ended": 0.0}] * 3 * WINDOW) == []
    assert monitor.stop_reason(HEALTHY) is None


@pytest.mark.parametrize(
    ("equal", "others"),
    [
        ({"frac_reward_zero_std": 1.0}, {"frac_reward_zero_std": 0.9}),
        ({"objective/scores_std": 0.0}, {"objective/scores_std": 0.1}),
    ],
    ids=["groups", "batch"],
)
def test_rewards_without_differences_are_reported_and_do_not_stop_the_run(equal, others):
    monitor = TrainingMonitor(max_kl=20.0)
    assert signs_of(monitor, *[equal] * (WINDOW - 1), others, *[equal] * (WINDOW - 1)) == []
    (reported,) = signs_of(monitor, *[equal] * 3)
    assert "the same reward in the last 10 updates" in reported and monitor.stop_reason(HEALTHY) is None


@pytest.mark.parametrize(
    ("reply", "share"),
    [([], 0.0), ([1, 2], 0.0), ([1, 2, 3, 4, 5], 0.0), ([1, 1, 1, 1, 1], 2 / 3), ([1, 2, 3] * 2, 0.25)],
)
def test_repetition_is_the_share_of_three_token_runs_that_were_there_before(reply, share):
    assert repetition_share(reply) == pytest.approx(share)


def test_a_metric_that_warmup_lacks_is_a_mean_of_the_updates_that_have_it():
    rows = [{"reward": 1.0}, {"reward": 2.0, "loss/ptx": 5.0}, {"reward": 3.0, "loss/ptx": 7.0}]
    assert mean_metrics(rows) == {"reward": 2.0, "loss/ptx": 6.0}
