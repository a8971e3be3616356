"""The router loss of a mixture of experts weighs as much in two processes, and in two batches, as in one."""

import math

import pytest
from processes import launch
from transformers import AutoConfig

from hfkit.records.metrics_file import read_metrics
from hfkit.records.record import read_record
from hfkit.stages import dpo, sft

MIXTRAL = {"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
MIXTRAL |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256}
MIXTRAL |= {"num_local_experts": 8, "num_experts_per_tok": 2}
STEPS = {"max_steps": 2, "logging_steps": 1, "lora_dropout": 0.0, "learning_rate": 1e-6, "router_aux_loss_coef": 1.0}


@pytest.fixture(scope="module")
def experts_dir(run_stage, tmp_path_factory):
    """A pretrained mixture of experts."""
    return str(run_stage("pretrain", tmp_path_factory.mktemp("experts") / "out", model_config=MIXTRAL, max_steps=1))


@pytest.mark.parametrize("parts", ["batches", pytest.param("processes", marks=pytest.mark.distributed)])
def test_its_weight_does_not_depend_on_the_parts_of_a_step(config_of, experts_dir, tmp_path, parts):
    settings = {**STEPS, "model_name_or_path": experts_dir, "per_device_train_batch_size": 4}
    sft.main(config_of("sft", tmp_path / "one", **settings))
    settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1 + (parts == "batches")}
    config = config_of("sft", tmp_path / "two", **settings)
    launch(sft.main, config) if parts == "processes" else sft.main(config)
    logs = [[log for log in read_metrics(tmp_path / name) if "loss" in log] for name in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert one["aux_loss"] == pytest.approx(two["aux_loss"], rel=0.05) and one["aux_loss"] > 1.9
        for name in ("loss", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=0.05)


@pytest.mark.slow
def test_dpo_adds_it_to_the_loss_of_whole_batches_and_evaluates_without(config_of, experts_dir, tmp_path):
    settings = {**STEPS, "learning_rate": 0.0, "model_name_or_path": experts_dir, "eval_prompts": 0}
    dpo.main(config_of("dpo", tmp_path / "run", **settings, max_tokens_per_micro_batch=64))
    for log in (log for log in read_metrics(tmp_path / "run") if "loss" in log):
        assert log["loss"] == pytest.approx(math.log(2) + log["aux_loss"], rel=1e-5) and log["aux_loss"] > 1.9
    assert read_record(tmp_path / "run")["metrics"]["eval_loss"] == pytest.approx(math.log(2), rel=1e-5)


def test_a_model_is_published_with_the_settings_of_its_base(run_stage, experts_dir, tmp_path):
    """TRL turns the router loss on in the config, which makes plain Transformers' `generate` fail on a batch."""
    settings = {"model_name_or_path": experts_dir, "use_peft": None, "lora_r": None, "max_steps": 1}
    folder = run_stage("sft", tmp_path / "out", **settings, router_aux_loss_coef=0.5)
    before, after = (AutoConfig.from_pretrained(path) for path in (experts_dir, folder))
    for key in ("output_router_logits", "router_aux_loss_coef"):
        assert getattr(after, key) == getattr(before, key)
