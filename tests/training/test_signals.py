"""SIGTERM and SIGUSR1 lose no step: a checkpoint of it is saved, and the resumed run ends as an uninterrupted one."""

import os
import signal
from functools import cache
from importlib import import_module

import pytest
from interruption import assert_same_run
from transformers import TrainerCallback

from hfkit.core.errors import ConfigError, HfkitError
from hfkit.core.interrupts import Interrupted
from hfkit.records.record import read_record
from hfkit.stages import sft
from hfkit.training.checkpoints import last_complete_checkpoint

CHANGES = {"eval_strategy": "steps", "eval_steps": 2, "test_split_size": 8, "max_steps": 6, "save_total_limit": None}
HALVED = {"mode": "max", "patience": 0, "factor": 0.5}  # by each evaluation but the first, since the loss falls
OF_STAGE = {
    "pretrain": {
        "per_device_eval_batch_size": 2,
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": HALVED,
    },
    "sft": {"lora_dropout": 0.1, "gradient_accumulation_steps": 3, "micro_batches_by_length": False},
    "reward": {
        "lora_dropout": 0.1,
        "disable_dropout": False,
        "max_tokens_per_micro_batch": 64,
        "eval_strategy": "epoch",
        "eval_steps": None,
    },
}


class Send(TrainerCallback):
    """Sends this process a signal at an event of a step."""

    def __init__(self, event: str, step: int, number: int):
        def send(args, state, control, **kwargs):
            if state.global_step == step:
                os.kill(os.getpid(), number)

        setattr(self, event, send)


def slow(*cases: tuple) -> list:
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.fixture(scope="module")
def whole(run_stage, tmp_path_factory):
    """The uninterrupted run of a stage."""
    return cache(lambda stage: run_stage(stage, tmp_path_factory.mktemp(stage) / "whole", **CHANGES | OF_STAGE[stage]))


@pytest.fixture
def interrupt(run_stage, monkeypatch, tmp_path):
    """interrupt(stage, event, step) -> the folder of a run that a signal interrupted there."""

    def run(stage: str, event: str, step: int, number: int = signal.SIGTERM):
        module = import_module(f"hfkit.stages.{stage}")
        own = module.set_callbacks
        with monkeypatch.context() as patch:
            patch.setattr(
                module, "set_callbacks", lambda *given: (own(*given), given[0].add_callback(Send(event, step, number)))
            )
            with pytest.raises(Interrupted) as raised:
                run_stage(stage, tmp_path / stage, **CHANGES | OF_STAGE[stage])
        assert raised.value.code == 143
        record = read_record(tmp_path / stage)
        assert (record["status"], record["signal"]) == ("interrupted", signal.Signals(number).name)
        assert signal.getsignal(number) is signal.SIG_DFL
        return tmp_path / stage

    return run


@pytest.mark.parametrize(
    ("stage", "event", "step", "saved"),
    [
        ("sft", "on_substep_end", 2, 2),  # between two batches of a step
        *slow(
            ("sft", "on_prediction_step", 4, 4),  # an evaluation: the resumed run makes it
            ("sft", "on_optimizer_step", 0, 1),
            ("sft", "on_prediction_step", 6, 6),  # the last one
            ("sft", "on_log", 5, 5),
            ("pretrain", "on_optimizer_step", 2, 3),
            ("pretrain", "on_prediction_step", 4, 4),
            ("reward", "on_substep_end", 3, 3),  # between two micro-batches
            ("reward", "on_prediction_step", 6, 6),  # at the end of an epoch
            ("reward", "on_optimizer_step", 5, 6),  # before it
        ),
    ],
)
def test_a_signal_saves_the_step_and_the_resumed_run_ends_alike(interrupt, whole, run_stage, stage, event, step, saved):
    folder = interrupt(stage, event, step)
    assert last_complete_checkpoint(folder).name == f"checkpoint-{saved}"
    run_stage(stage, folder, **CHANGES | OF_STAGE[stage], resume_from_checkpoint=True)
    assert read_record(folder)["resumed_from"] == f"checkpoint-{saved}"
    assert_same_run(folder, whole(stage))


def test_a_run_that_something_else_stopped_is_not_done(run_stage, whole, monkeypatch, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 2

    own, changes = sft.set_callbacks, CHANGES | OF_STAGE["sft"]
    with monkeypatch.context() as patch, pytest.raises(HfkitError, match="ended at step 2 of 6"):
        patch.setattr(sft, "set_callbacks", lambda *given: (own(*given), given[0].add_callback(Stop())))
        run_stage("sft", tmp_path / "sft", **changes)
    assert read_record(tmp_path / "sft")["status"] == "failed"
    run_stage("sft", tmp_path / "sft", **changes, resume_from_checkpoint=True)
    assert read_record(tmp_path / "sft")["resumed_from"] == "checkpoint-2"
    assert_same_run(tmp_path / "sft", whole("sft"))


def test_the_just_in_time_checkpoints_of_transformers_are_refused(config_of, tmp_path):
    with pytest.raises(ConfigError, match=r"enable_jit_checkpoint.*hfkit saves a checkpoint at SIGTERM"):
        config_of("sft", tmp_path, enable_jit_checkpoint=True)
