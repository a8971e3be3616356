"""PPOTrainer is TRL's where TRL has one, and the same trainer where it has none."""

import inspect
import json
import typing
from collections import ChainMap
from dataclasses import fields
from pathlib import Path

import forks
import pytest
import torch
from peft import LoraConfig, PeftModel
from ppo_small import models, small_trainer, trained
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import TrainerState

from hfkit.core.errors import HfkitError
from hfkit.rlhf import GRPOArguments, PPOArguments, PPOTrainer

WITHOUT_TRL = """
import json, sys
from pathlib import Path
sys.modules["trl.experimental.ppo"] = None  # as TRL 1.13 and later: it cannot be imported
sys.path.insert(0, sys.argv[1])
import torch
from ppo_small import trained
from hfkit.models.tokenizers import load_tokenizer

folder = Path(sys.argv[3])
trainer = trained(load_tokenizer(sys.argv[2]), folder)
trainer.save_model(folder / "saved")
assert not any(one.__module__.startswith("trl.") for one in type(trainer).__mro__ + type(trainer.args).__mro__)
(folder / "arguments.json").write_text(trainer.args.to_json_string())
"""
OWN = {"output_dir", "metric_for_best_model"}
"""Fields with a default of hfkit's."""


@pytest.mark.slow
def test_without_trls_ppo_the_arguments_and_the_trained_weights_are_the_same(tokenizer_dir, tokenizer, tmp_path):
    alone, here = tmp_path / "alone", tmp_path / "here"
    alone.mkdir()
    ran = forks.run(WITHOUT_TRL, Path(__file__).parents[1], tokenizer_dir, alone)
    assert ran.returncode == 0, ran.stderr
    before = models("llama", lora=True)[0].state_dict()
    trainer = trained(tokenizer, here)
    trainer.save_model(here / "saved")
    theirs, ours = json.loads((alone / "arguments.json").read_text()), json.loads(trainer.args.to_json_string())
    assert {key for key in ours | theirs if ours.get(key) != theirs.get(key)} <= {"output_dir"}
    weights, others = (load_file(folder / "saved" / "adapter_model.safetensors") for folder in (here, alone))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
    old = {name.replace(".default", ""): weight.float() for name, weight in before.items()}
    assert any(not torch.equal(weight, old[name]) for name, weight in weights.items())


@pytest.fixture
def theirs():
    """The module of TRL's PPO."""
    return pytest.importorskip("trl.experimental.ppo", reason="TRL 1.13 and later have no PPO")


def test_where_trl_has_ppo_arguments_and_trainer_are_subclasses(theirs):
    assert issubclass(PPOTrainer, theirs.PPOTrainer) and issubclass(PPOArguments, theirs.PPOConfig)


def test_every_field_of_trls_config_is_here_with_its_type_and_default(theirs):
    inherited = {one.name: one.default for one in fields(TrainingArguments)}
    types, their_types = map(typing.get_type_hints, (PPOArguments, theirs.PPOConfig))
    ours = [one for one in PPOArguments.__mro__ if one.__module__.startswith("hfkit.")]
    own, declared = (ChainMap(*map(of, ours)) for of in (vars, inspect.get_annotations))
    for one in fields(theirs.PPOConfig):
        if one.name not in inherited or inherited[one.name] != one.default:
            assert one.name in declared, one.name
            assert one.name in OWN or own[one.name] == one.default, one.name
            assert types[one.name] == their_types[one.name], one.name


def test_the_constructor_takes_what_trls_takes(theirs):
    ours, their = (inspect.signature(one.__init__).parameters for one in (PPOTrainer, theirs.PPOTrainer))
    assert [name for name, one in ours.items() if one.kind is not one.KEYWORD_ONLY] == [*their]
    assert all(ours[name].default == one.default for name, one in their.items())


def test_with_a_peft_config_the_policy_gets_an_adapter(tokenizer, tmp_path):
    parts = [model.float() for model in models("llama", lora=False)]
    trainer = small_trainer(tokenizer, tmp_path, parts, peft_config=LoraConfig(r=2, target_modules="all-linear"))
    policy = trainer.trained_models["policy"]
    assert isinstance(policy, PeftModel) and policy is trainer.policy_model
    trained_names = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained_names and all("lora_" in name for name in trained_names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_estimator": "k2"}, "expected k1 or k3"),
        ({"stop_token_id": 0}, "set eos_token_id"),
        ({"lr_scheduler_type": "greedy", "eval_strategy": "steps", "eval_steps": 1}, "set linear, cosine"),
    ],
)
def test_unsupported_arguments_are_refused(tokenizer, tmp_path, changes, message):
    with pytest.raises(HfkitError, match=message):
        small_trainer(tokenizer, tmp_path, models("llama", lora=True), **changes)


def test_a_reference_that_is_the_policy_is_refused(tokenizer, tmp_path):
    policy, _, value = models("llama", lora=True)
    with pytest.raises(HfkitError, match="ref_model is the same object as model"):
        small_trainer(tokenizer, tmp_path, [policy, policy, value])


def test_a_schedule_gets_its_settings(tokenizer, tmp_path):
    settings = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.5}, "max_steps": 4}
    trainer = small_trainer(tokenizer, tmp_path, models("llama", lora=True), **settings)
    policy, _ = trainer.lr_scheduler.lr_lambdas
    assert [policy(0), policy(4)] == [1.0, 0.5]


def test_weight_decay_leaves_out_norms_and_biases_as_trainer_does(tokenizer, tmp_path):
    parts = models("gpt2", lora=False)
    trainer = small_trainer(tokenizer, tmp_path, parts, weight_decay=0.1, value_learning_rate=1e-3)
    ours = {
        (p, group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups for p in group["params"]
    }
    theirs = set()
    for model, rate in ((parts[0], 1e-2), (parts[2], 1e-3)):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, weight_decay=0.1, learning_rate=rate)
        for group in Trainer(model, args).create_optimizer().param_groups:
            theirs |= {(p, group["lr"], group["weight_decay"]) for p in group["params"]}
    assert ours == theirs and {decay for *_, decay in ours} == {0.0, 0.1}
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-2  # the one that is logged


def test_shares_of_the_updates_are_rounded_as_trainer_rounds_them(tokenizer, tmp_path):
    settings = {"max_steps": 10, "logging_steps": 0.25, "save_steps": 0.15, "eval_steps": 0.5}
    trainer, theirs = small_trainer(tokenizer, tmp_path, models("llama", lora=True), **settings), TrainerState()
    theirs.compute_steps(trainer.args, 10)
    trainer.start(None)
    for name in ("logging_steps", "save_steps", "eval_steps"):
        assert getattr(trainer.state, name) == getattr(theirs, name), name


def test_a_small_share_of_an_epoch_is_one_update(tmp_path):
    args = PPOArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, num_train_epochs=0.01)
    args.set_batch_sizes(8)
    assert args.num_total_batches == 1


def test_without_a_gradient_norm_nothing_is_clipped_and_the_rate_of_each_update_is_logged(tokenizer, tmp_path):
    settings = {"max_steps": 2, "lr_scheduler_type": "linear", "logging_steps": 1, "num_ppo_epochs": 1}
    free, huge = (trained(tokenizer, tmp_path / str(norm), max_grad_norm=norm, **settings) for norm in (0.0, 1e9))
    assert [row["lr"] for row in free.state.log_history] == pytest.approx([1e-2, 5e-3])
    weights, others = (trainer.policy_model.state_dict() for trainer in (free, huge))
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


@pytest.mark.parametrize("arguments_class", [PPOArguments, GRPOArguments])
@pytest.mark.parametrize(
    ("given", "metric", "rises"),
    [
        ({}, "eval_reward", True),
        ({"metric_for_best_model": "kl"}, "eval_kl", False),
        ({"metric_for_best_model": "eval_length", "greater_is_better": False}, "eval_length", False),
    ],
)
def test_the_best_metric_has_its_name_and_direction(arguments_class, given, metric, rises, tmp_path):
    args = arguments_class(output_dir=str(tmp_path), use_cpu=True, bf16=False, **given)
    assert (args.metric_for_best_model, args.greater_is_better) == (metric, rises)
