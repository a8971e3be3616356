"""Launches under FSDP that would train something else, or could not be saved, are refused before anything is loaded."""

import shutil

import pytest
from config_problems import problems
from processes import launch_command
from sharding_on_cpus import ENGINES
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.launch import engine, node_count
from hfkit.stages.checks.fsdp import training_problems
from hfkit.stages.checks.start import checkpoint_problems

FULL = {"use_peft": False}


@pytest.fixture
def launched(monkeypatch, base_dir, sft_dir, reward_dir):
    """Set what `accelerate launch` sets for FSDP2, with changes, once there are models to start from."""

    def launched(**changes):
        for name, value in {**ENGINES["fsdp2"], **changes}.items():
            monkeypatch.setenv(name, value)

    return launched


@pytest.mark.parametrize(
    ("stage", "changes", "variables", "key", "remedy"),
    [
        ("sft", {"fsdp": "full_shard"}, {}, "fsdp", "accelerate launch --use_fsdp --fsdp_version 2"),
        ("sft", {}, {"FSDP_VERSION": "1"}, "FSDP_VERSION", "--fsdp_version 2"),
        ("sft", {}, {}, "ACCELERATE_USE_FSDP", "silently train with DDP"),
        ("ppo", {}, {}, "ACCELERATE_USE_FSDP", "--multi_gpu"),
        ("dpo", {}, {}, "ACCELERATE_USE_FSDP", "--multi_gpu"),
        ("dpo", FULL, {}, "ACCELERATE_USE_FSDP", "DPO holds a policy and its reference"),
        ("ppo", {**FULL, "rollout_engine": "static"}, {}, "rollout_engine", "set generate"),
        ("ppo", FULL, {"FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS", "fsdp_offload_params: false"),
        (
            *("ppo", FULL, {"FSDP_ACTIVATION_CHECKPOINTING": "true"}),
            *("FSDP_ACTIVATION_CHECKPOINTING", "gradient_checkpointing"),
        ),
        ("reward", {"load_in_8bit": True}, {}, "load_in_8bit", "load_in_4bit"),
        ("pretrain", {"auto_find_batch_size": True}, {}, "auto_find_batch_size", "per_device_train_batch_size"),
        ("sft", {}, {"FSDP_STATE_DICT_TYPE": "LOCAL_STATE_DICT"}, "FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT"),
        ("sft", {}, {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"),
        (
            *("sft", {"load_in_4bit": True}, {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}),
            *("FSDP_STATE_DICT_TYPE", "set SHARDED_STATE_DICT"),
        ),
        ("pretrain", {"label_smoothing_factor": 0.1}, {}, "label_smoothing_factor", "train with DDP"),
        ("sft", {"optim": "adafactor"}, {}, "optim", "adamw_torch_fused"),
        ("sft", {"accelerator_config": {"even_batches": False}}, {}, "accelerator_config", "remove even_batches"),
        ("sft", {"torch_compile": True}, {}, "torch_compile", "remove it"),
        ("sft", {}, {"ACCELERATE_DYNAMO_BACKEND": "inductor"}, "ACCELERATE_DYNAMO_BACKEND", "'NO'"),
        ("sft", {}, {"PARALLELISM_CONFIG_CP_SIZE": "2"}, "PARALLELISM_CONFIG_CP_SIZE", "set 1"),
    ],
)
def test_what_is_refused(config_of, tmp_path, launched, stage, changes, variables, key, remedy):
    launched(**variables)
    assert remedy in problems(config_of, tmp_path, stage, **changes)[key]


def test_activations_are_recomputed_in_one_way(config_of, tmp_path, launched):
    adapter = config_of("sft", tmp_path / "out")
    full = config_of("sft", tmp_path / "out", use_peft=False, lora_r=None, gradient_checkpointing=True)
    launched(FSDP_ACTIVATION_CHECKPOINTING="true", WORLD_SIZE="2")
    assert [one.key for one in training_problems(adapter)] == ["FSDP_ACTIVATION_CHECKPOINTING"]
    assert [one.key for one in training_problems(full)] == ["gradient_checkpointing"]


@pytest.mark.parametrize("whole", [["embed_tokens"], ["lm_head"], ["norm"]])
def test_a_copy_of_one_matrix_for_embeddings_and_head_is_refused(config_of, tmp_path, launched, base_dir, whole):
    tied = shutil.copytree(base_dir, tmp_path / "tied")
    config = AutoConfig.from_pretrained(tied, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    changes = {"model_name_or_path": str(tied), "modules_to_save": whole}
    config = config_of("sft", tmp_path / "out", **changes)
    launched(WORLD_SIZE="2")
    found = {problem.key: problem.remedy for problem in checkpoint_problems(config)}
    assert [*found] == ["modules_to_save"] * (whole != ["norm"])
    assert all("train with DDP" in remedy for remedy in found.values())


def test_a_tokenizer_is_not_concerned(config_of, tmp_path, launched):
    launched()
    assert problems(config_of, tmp_path, "tokenizer") == {}


@pytest.mark.parametrize(
    ("processes", "variables", "expected"),
    [
        ("1", ENGINES["fsdp2"], None),
        ("4", {}, "ddp"),
        ("4", ENGINES["fsdp2"], "fsdp2"),
        ("4", {"ACCELERATE_USE_FSDP": "true"}, "fsdp1"),
        ("4", ENGINES["zero2"], "zero2"),
        ("4", ENGINES["zero3"], "zero3"),
    ],
)
def test_the_engine_of_a_launch(monkeypatch, processes, variables, expected):
    for name, value in {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": str(min(2, int(processes))), **variables}.items():
        monkeypatch.setenv(name, value)
    assert engine() == expected
    assert node_count() == (2 if processes == "4" else 1)


@pytest.mark.distributed
def test_cpus_are_refused_since_accelerate_would_shard_nothing(config_of, data, base_dir, tmp_path):
    flags = ["--model_name_or_path", base_dir, "--output_dir", tmp_path / "out", "--use_peft", "true"]
    file = tmp_path / "sft.yaml"
    file.write_text(f"datasets: [{{path: {data / 'turns.jsonl'}}}]\n")
    ranks = launch_command("sft", file, *flags, environment=ENGINES["fsdp2"])
    assert [rank.status for rank in ranks] == [2, 2]
    assert "on CPUs would silently train with DDP" in ranks[0].output
    assert not (tmp_path / "out").exists()
