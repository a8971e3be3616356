"""The training loop without its updates: lengths, logs, checkpoints, evaluation, the best model, samples, stopping."""

import json
import math

import pytest
import torch
from quick import slow
from safetensors.torch import load_file
from transformers import TrainerCallback

from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.rlhf.experience import ExperienceMaker
from hfkit.stages import ppo

HELD_OUT = {"test_split_size": 2}


def rows_with(folder, key: str) -> list[dict]:
    return [row for row in read_metrics(folder) if key in row]


def checkpoints(folder) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def policy_of(folder) -> list[torch.Tensor]:
    """The adapter's tensors, of a run or of a checkpoint, in one order."""
    names = {"adapter_model.safetensors", "policy_model.safetensors"}
    file = next(path for path in folder.iterdir() if path.name in names)
    tensors = {name.replace(".default", ""): tensor for name, tensor in load_file(file).items()}
    return [tensors[name] for name in sorted(tensors)]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def run(run_stage, tmp_path):
    """run(**changes) -> the folder of a run in this test's own folder."""
    return lambda **changes: run_stage("ppo", tmp_path / "out", **changes)


@pytest.fixture
def callback(monkeypatch):
    """callback(one): added to those of the next run."""

    def add(one: TrainerCallback) -> None:
        own = ppo.set_callbacks
        monkeypatch.setattr(ppo, "set_callbacks", lambda trainer, run, *more: own(trainer, run, *more, one))

    return add


@pytest.fixture(scope="module")
def steady(run_stage, tmp_path_factory):
    """Five updates; every second one is sampled and saved."""
    changes = {"max_steps": 5, "sample_steps": 2, "save_steps": 2, "save_total_limit": 1}
    return run_stage("ppo", tmp_path_factory.mktemp("steady") / "out", **changes)


@pytest.fixture(scope="module")
def evaluated(run_stage, tmp_path_factory):
    """Three updates on six prompts, which are evaluated after the second and the last."""
    changes = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 2, **HELD_OUT}
    return run_stage("ppo", tmp_path_factory.mktemp("evaluated") / "out", **changes)


def test_max_steps_beats_total_episodes_and_the_schedule_is_as_long(run):
    folder = run(max_steps=3, total_episodes=400, save_strategy="no")
    assert checkpoints(folder) == []
    assert (read_record(folder)["steps"], read_record(folder)["episodes"]) == (3, 12)
    assert [row["lr"] for row in rows_with(folder, "lr")] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])


@pytest.mark.slow
def test_total_episodes_beat_epochs_and_the_last_batch_is_whole(run):
    assert read_record(run(total_episodes=10, num_train_epochs=9))["episodes"] == 12


@pytest.mark.slow
def test_epochs_are_passes_over_the_prompts(run):
    folder = run(total_episodes=None, num_train_epochs=2)
    assert (read_record(folder)["steps"], rows_with(folder, "epoch")[-1]["epoch"]) == (4, 2.0)


@pytest.mark.slow
def test_a_line_is_the_mean_of_the_updates_since_the_last_and_each_epoch_is_saved(run, steady):
    folder = run(max_steps=5, logging_steps=2, save_strategy="epoch", save_total_limit=9)
    assert checkpoints(folder) == [2, 4, 5]
    each, some = rows_with(steady, "objective/kl"), rows_with(folder, "objective/kl")
    assert [row["step"] for row in some] == [2, 4, 5]
    for row, part in zip(some, (each[:2], each[2:4], each[4:]), strict=True):
        for name in ("objective/kl", "objective/scores", "loss/value_avg", "policy/grad_norm"):
            assert row[name] == pytest.approx(sum(one[name] for one in part) / len(part), rel=1e-12)
        assert row["episode"] == part[-1]["episode"]


@pytest.mark.slow
@pytest.mark.parametrize("save_steps", [2, 0.4])
def test_checkpoints_are_where_the_strategy_says(run, save_steps):
    assert checkpoints(run(max_steps=5, save_steps=save_steps, save_total_limit=9)) == [2, 4, 5]


def test_evaluation_is_where_the_strategy_says_and_moves_nothing(run, evaluated):
    rows = rows_with(evaluated, "eval_reward")
    assert [row["step"] for row in rows] == [2, 3]
    assert all({"eval_kl", "eval_entropy", "eval_length"} <= row.keys() for row in rows)
    assert same(policy_of(evaluated), policy_of(run(max_steps=3, **HELD_OUT)))


@pytest.mark.slow
def test_evaluation_is_at_the_end_of_each_pass(run_stage, tmp_path):
    """Six prompts to train on and batches of four: passes end in updates 2, 3 and (the run) 5."""
    with_it = run_stage("ppo", tmp_path / "with", max_steps=5, eval_strategy="epoch", **HELD_OUT)
    assert [row["step"] for row in rows_with(with_it, "eval_reward")] == [2, 3, 5]
    assert same(policy_of(with_it), policy_of(run_stage("ppo", tmp_path / "without", max_steps=5, **HELD_OUT)))


def test_the_last_evaluation_is_what_the_record_says_of_the_policy(evaluated):
    """Both sample the held-out prompts with one seed."""
    last, metrics = rows_with(evaluated, "eval_reward")[-1], read_record(evaluated)["metrics"]
    assert last["eval_reward"] == pytest.approx(metrics["eval_reward_ppo"], abs=1e-5)
    assert last["eval_kl"] == pytest.approx(metrics["eval_kl"], abs=1e-4)


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, **HELD_OUT}


@pytest.mark.parametrize(("metric", "best"), [("eval_reward", max), slow("eval_kl", min)])
def test_the_run_ends_with_the_best_checkpoint(run, metric, best):
    settings = {"load_best_model_at_end": True, "metric_for_best_model": metric, "save_total_limit": 1}
    folder = run(max_steps=5, learning_rate=5e-3, **EVALUATED, **settings)
    rows = rows_with(folder, metric)
    step = best(rows, key=lambda row: row[metric])["step"]
    assert step < 5, "or it would be seen from nothing that the best was loaded"
    assert set(checkpoints(folder)) == {step, 5}
    assert same(policy_of(folder), policy_of(folder / f"checkpoint-{step}"))
    assert not same(policy_of(folder), policy_of(folder / "checkpoint-5"))


@pytest.mark.slow
@pytest.mark.parametrize("load_best", [False, True])
def test_early_stopping_stops_when_patience_is_at_an_end(run, load_best):
    folder = run(
        max_steps=9, learning_rate=0.0, early_stopping_patience=2, load_best_model_at_end=load_best, **EVALUATED
    )
    assert read_record(folder)["steps"] == 3  # at learning rate 0 nothing is better than the first
    assert read_record(folder)["status"] == "done"


def test_samples_of_the_rollouts_are_written_and_checkpoints_saved_as_often_as_asked(steady):
    assert checkpoints(steady) == [5]
    rows = [json.loads(line) for line in (steady / "rollouts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2] * 4 + [4] * 4
    assert all({"prompt", "reply", "score", "kl"} < row.keys() for row in rows)
    scores = [row["score"] for row in rows[:4]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) / 4 == pytest.approx(rows_with(steady, "objective/scores")[1]["objective/scores"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_kl_of_the_logged_replies_is_what_the_update_was_penalized_with(run, estimator):
    folder = run(max_steps=4, sample_steps=4, learning_rate=1e-2, kl_estimator=estimator)
    kl = [json.loads(line)["kl"] for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    mean = rows_with(folder, "objective/kl")[-1]["objective/kl"]
    assert abs(mean) > 1e-2 and sum(kl) / len(kl) == pytest.approx(mean, abs=1e-4)
    assert min(kl) >= 0 or estimator == "k1"


def test_past_the_kl_limit_it_stops_with_a_checkpoint_and_the_reason(run, capsys):
    folder = run(max_steps=9, max_kl=1e-6, save_steps=100)
    record = read_record(folder)
    assert record["status"] == "done" and record["steps"] < 9
    assert (
        f"stopped at step {record['steps']}: KL" in record["stopped"] and record["stopped"] in capsys.readouterr().err
    )
    assert checkpoints(folder) == [record["steps"]]
    assert same(policy_of(folder), policy_of(folder / f"checkpoint-{record['steps']}"))


def test_a_loss_that_is_not_finite_stops_it_and_leaves_the_weights_whole(run, monkeypatch):
    """In the second of three updates; what the first one learnt is published."""
    make_experience, calls = ExperienceMaker.__call__, []

    def broken(self, rows, replies):
        experience, metrics = make_experience(self, rows, replies)
        calls.append(1)
        if len(calls) == 2:
            experience.advantages[0, 0] = math.nan
        return experience, metrics

    monkeypatch.setattr(ExperienceMaker, "__call__", broken)
    folder = run(max_steps=3, save_steps=1, save_total_limit=9, num_mini_batches=1)
    record = read_record(folder)
    assert "stopped at step 2: loss/policy_avg, policy/grad_norm is no longer finite" in record["stopped"]
    assert "lower learning_rate" in record["stopped"]
    assert all(tensor.isfinite().all() for tensor in policy_of(folder))
    assert same(policy_of(folder), policy_of(folder / "checkpoint-1"))


def test_while_the_value_warms_up_the_policy_stays(run_stage, tmp_path):
    """Weight decay and Adam's moments included: its first step is as large as it would have been."""
    changes = {"max_steps": 3, "save_steps": 1, "save_total_limit": 9, "value_warmup_steps": 2, "weight_decay": 0.1}
    folder = run_stage("ppo", tmp_path / "out", **changes, lr_scheduler_type="constant")
    assert max(abs(row["objective/kl"]) for row in rows_with(folder, "objective/kl")) < 1e-4
    first, second, third = (policy_of(folder / f"checkpoint-{step}") for step in (1, 2, 3))
    assert same(first, second) and not same(second, third)
    values = [load_file(folder / f"checkpoint-{step}" / "value_model.safetensors") for step in (1, 2)]
    assert not same(list(values[0].values()), list(values[1].values()))
    state = torch.load(folder / "checkpoint-2" / "optimizer.pt", weights_only=True)
    policy, value = (group["params"] for group in state["param_groups"])
    assert not set(policy) & state["state"].keys() and set(value) == state["state"].keys()


@pytest.mark.slow
def test_the_value_model_has_its_own_learning_rate(run):
    folder = run(max_steps=2, save_steps=1, learning_rate=0.0, value_learning_rate=1e-3)
    assert same(policy_of(folder / "checkpoint-1"), policy_of(folder / "checkpoint-2"))
    values = [load_file(folder / f"checkpoint-{step}" / "value_model.safetensors") for step in (1, 2)]
    assert not same(list(values[0].values()), list(values[1].values()))


class Listener(TrainerCallback):
    """Return what any reporter gets."""

    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda args, state, control, **kwargs: self.events.append((name, state.global_step, kwargs.get("logs")))


@pytest.mark.slow
def test_callbacks_hear_of_everything(run, callback):
    listener = Listener()
    callback(listener)
    run(max_steps=2, save_steps=1, eval_strategy="steps", eval_steps=1, **HELD_OUT)
    heard = [name for name, _, _ in listener.events]
    update = ["on_step_begin", "on_step_end", "on_log", "on_log", "on_evaluate", "on_save"]
    end = ["on_step_begin", "on_step_end", "on_epoch_end", *update[2:]]
    assert heard == ["on_train_begin", *update, *end, "on_train_end"]
    logs = [logs for name, _, logs in listener.events if name == "on_log"]
    assert "objective/kl" in logs[0] and "eval_reward" in logs[1]
