"""Two processes under DeepSpeed train what one process does, save it as one does, and resume to the same bits."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import SHAPE
from forks import run_without_hfkit
from interruption import assert_same_run, stopped_copy
from one_and_two import assert_same_training, weights_of
from processes import launch, launch_command

from hfkit.core.errors import HfkitError
from hfkit.models import token_predictions
from hfkit.records.record import read_record
from hfkit.training.checkpoints import checkpoint_fault

STEPS = {"lora_dropout": 0.0, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "max_grad_norm": 0.5}
FULL, QLORA = {"use_peft": False, "lora_r": None}, {"load_in_4bit": True}
MIXTURE = {**SHAPE, "model_type": "mixtral", "num_local_experts": 4, "num_key_value_heads": 2}
CONTINUED = {"model_config": None, "tokenizer_name_or_path": None}
BEST = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "test_split_size": 7}
AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
RANKINGS = [
    {"prompt": f"What does {name} like?", "replies": [f"{name} likes {kind}.", f"{kind}!", kind], "ranks": [1, 2, 3]}
    for name in ("Ann", "Bob", "Cid", "Dee")
    for kind in ("red", "blue", "green", "pink")
]
CELLS = {
    "pretrain": ("pretrain", {}),
    "pretrain-tied": ("pretrain", {"model_config": {**SHAPE, "tie_word_embeddings": True}}),
    "pretrain-lora": ("pretrain", {**CONTINUED, "use_peft": True, "lora_r": 4}),
    "pretrain-mixture": ("pretrain", {"model_config": MIXTURE}),
    "pretrain-documents": ("pretrain", {**CONTINUED, "packing": "documents"}),
    "sft": ("sft", FULL),
    "sft-lora": ("sft", {}),
    "sft-qlora": ("sft", QLORA),
    "sft-packed": ("sft", {"packing": True}),
    "reward": ("reward", {**FULL, **CONTINUED}),
    "reward-lora": ("reward", {}),
    "reward-qlora": ("reward", QLORA),
    "rankings": ("reward", {"datasets": RANKINGS}),
}
VARIANTS = {
    "best": ("sft", BEST),
    "best-full": ("reward", {**FULL, **CONTINUED, **BEST}),
    "accumulated": ("sft", {**FULL, "gradient_accumulation_steps": 2, "max_steps": 2, "save_steps": 1}),
    "checkpointing": ("sft", {**FULL, "gradient_checkpointing": True}),
    "checkpointing-lora": ("reward", {"gradient_checkpointing": True}),
    "samples": ("pretrain", {**CONTINUED, **BEST, "sample_prompts": ["Ann likes", "Bob"]}),
    "head": ("sft", {"lora_target_modules": ["q_proj", "lm_head"]}),
    "chunks": ("pretrain", {**CONTINUED, **BEST}),
    "chunks-lora": ("sft", BEST),
}
# argv: kind and two folders; their logits have to be the same
SCRIPT = """
import sys
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

def load(folder):
    if sys.argv[1] == "CAUSAL_LM":
        return AutoPeftModelForCausalLM.from_pretrained(folder)
    if sys.argv[1] == "SEQ_CLS":
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        return PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=0), folder
        )
    auto = AutoModelForSequenceClassification if sys.argv[1] == "reward" else AutoModelForCausalLM
    return auto.from_pretrained(folder)

with torch.no_grad():
    one, two = (load(folder).eval()(torch.arange(5, 60)[None]).logits for folder in sys.argv[2:])
assert one.std() > 0 or one.numel() == 1
torch.testing.assert_close(one, two, rtol=0, atol=1e-3)
"""


def run(stage: str, config, chunk: int | None = None) -> None:
    """Run a stage, with so many logits in a chunk."""
    token_predictions.LOGITS["cpu"] = chunk or token_predictions.LOGITS["cpu"]
    import_module(f"hfkit.stages.{stage}").main(config)


def zero_file(folder: Path, stage: int, **more) -> str:
    """A file with DeepSpeed's settings, by which ZeRO-3 shares out the smallest weights too."""
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    file = folder / f"zero{stage}.json"
    file.write_text(json.dumps({**dict.fromkeys(AUTO, "auto"), "zero_optimization": zero, **more}))
    return str(file)


@pytest.fixture
def cell_of(base_dir, rows_file):
    """cell_of(stage, settings) -> the settings of a run, with the model and rows that it names."""

    def make(stage: str, settings: dict) -> dict:
        settings = {**STEPS, **settings}
        if stage == "pretrain" and not settings.get("use_peft"):
            del settings["lora_dropout"]
        if settings.get("model_config", 0) is None:
            settings |= {"model_name_or_path": str(base_dir)}
            if stage != "pretrain":
                settings = {key: value for key, value in settings.items() if key not in CONTINUED}
        if isinstance(settings.get("datasets"), list):
            settings |= {"datasets": rows_file(settings["datasets"])}
        return settings

    return make


def check(stage: str, settings: dict, engine: str, config_of, folder: Path, chunk: int | None = None) -> None:
    """Train in one process and in two, with the same result; resume the second run, to the same bits."""
    batch = 8 // (2 * settings.get("gradient_accumulation_steps", 1))
    run(stage, config_of(stage, folder / "one", per_device_train_batch_size=batch, **settings))
    settings = {**settings, "per_device_train_batch_size": batch // 2}
    file = zero_file(folder, int(engine[-1]))
    options = {"engine": engine, "environment": {"ACCELERATE_DEEPSPEED_CONFIG_FILE": file}}
    launch(run, stage, config_of(stage, folder / "two", **settings), chunk, **options)
    assert_same_training(folder, engine, 1e-4)
    resume(stage, settings, config_of, folder, settings["save_steps"], chunk, **options)


def resume(stage: str, settings: dict, config_of, folder: Path, step: int, chunk: int | None = None, **options) -> None:
    """Resume a run of a folder `two` from a step, to the same bits."""
    stopped = stopped_copy(folder / "two", folder / f"stopped-{step}", step, *(f"checkpoint-{n}" for n in range(step)))
    launch(run, stage, config_of(stage, stopped, **settings, resume_from_checkpoint=True), chunk, **options)
    assert read_record(stopped)["resumed_from"] == f"checkpoint-{step}"
    assert_same_run(stopped, folder / "two")


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_train_as_one_and_resume(cell, engine, config_of, cell_of, tmp_path):
    stage, settings = CELLS[cell]
    check(stage, cell_of(stage, settings), engine, config_of, tmp_path)
    adapter = tmp_path / "two" / "adapter_config.json"
    kind = json.loads(adapter.read_text())["task_type"] if adapter.exists() else stage
    run_without_hfkit(SCRIPT, kind, str(tmp_path / "one"), str(tmp_path / "two"), cwd=tmp_path)


@pytest.mark.distributed
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_under_zero_3(variant, config_of, cell_of, tmp_path):
    stage, settings = VARIANTS[variant]
    chunk = 1200 if variant.startswith("chunks") else None
    check(stage, cell_of(stage, settings), "zero3", config_of, tmp_path, chunk)


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_what_is_left_to_do_with_a_checkpoint(engine, config_of, cell_of, tmp_path):
    settings = cell_of("sft", {**BEST, "lora_dropout": 0.1, "per_device_train_batch_size": 2})
    file = zero_file(tmp_path, int(engine[-1]))
    options = {"engine": engine, "environment": {"ACCELERATE_DEEPSPEED_CONFIG_FILE": file}}
    launch(run, "sft", config_of("sft", tmp_path / "two", **settings), **options)
    resume("sft", settings, config_of, tmp_path, 4, **options)  # stopped after its last step
    checkpoint = tmp_path / "two" / "checkpoint-2" / "trainer_state.json"
    state = json.loads(checkpoint.read_text())  # stopped within the evaluation of step 2
    state["log_history"] = [log for log in state["log_history"] if "eval_loss" not in log or log["step"] != 2]
    state["stateful_callbacks"]["TrainerControl"]["args"]["should_evaluate"] = True
    state.update(best_metric=None, best_model_checkpoint=None, best_global_step=None)
    checkpoint.write_text(json.dumps(state))
    resume("sft", settings, config_of, tmp_path, 2, **options)


@pytest.fixture(scope="module")
def short(config_of, base_dir, tmp_path_factory) -> Path:
    """A full run under ZeRO-3 with checkpoints after steps 1 and 2, and the file with its settings."""
    folder = tmp_path_factory.mktemp("zero")
    config = config_of("sft", folder / "two", **short_settings(base_dir))
    file = zero_file(folder, 3, optimizer=TORCH_ADAM)
    launch(run, "sft", config, engine="zero3", environment={"ACCELERATE_DEEPSPEED_CONFIG_FILE": file})
    return folder


def short_settings(base_dir: Path) -> dict:
    """The settings of that run."""
    return {**STEPS, **FULL, "model_name_or_path": str(base_dir), "max_steps": 2, "save_steps": 1, "lora_dropout": None}


TORCH_ADAM = {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto", "torch_adam": True}}
OPTIMIZER_STATES = "global_step2/zero_pp_rank_1_mp_rank_00_optim_states.pt"


class Attack:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return (Path.touch, (Path("attacked"),))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: None, None),
        (lambda folder: (folder / OPTIMIZER_STATES).unlink(), f"{OPTIMIZER_STATES} is missing"),
        (lambda folder: (folder / OPTIMIZER_STATES).write_bytes(b"half"), "is damaged"),
        (lambda folder: torch.save(Attack(), folder / OPTIMIZER_STATES), "more than tensors and numbers"),
        (lambda folder: shutil.rmtree(folder / "global_step2"), "the folder that latest names is missing"),
        (lambda folder: (folder / "latest").write_text(".."), "the folder that latest names is missing"),
        (lambda folder: (folder / "rng_state_1.pth").write_bytes(b"half"), "rng_state_1.pth is truncated"),
    ],
)
def test_a_checkpoint_is_whole_or_skipped(short, tmp_path, damage, fault):
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(short / "two" / "checkpoint-2", checkpoint)
    damage(checkpoint)
    found = checkpoint_fault(checkpoint)
    assert found is None if fault is None else fault in found


@pytest.mark.slow
def test_a_torn_checkpoint_is_skipped_for_the_one_before(short, base_dir, config_of, tmp_path):
    stopped = stopped_copy(short / "two", tmp_path / "stopped", 2, "checkpoint-1")
    (stopped / "checkpoint-2" / OPTIMIZER_STATES).unlink()
    options = {"engine": "zero3", "environment": {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(short / "zero3.json")}}
    config = config_of("sft", stopped, **short_settings(base_dir), resume_from_checkpoint=True)
    ranks = launch(run, "sft", config, **options)
    assert read_record(stopped)["resumed_from"] == "checkpoint-1"
    assert "skipping" in ranks[0].output and "optim_states.pt is missing" in ranks[0].output
    assert_same_run(stopped, short / "two")


@pytest.mark.parametrize("engine", [None, "zero2"])
def test_another_launch_does_not_resume_it(short, base_dir, config_of, tmp_path, engine, monkeypatch):
    stopped = stopped_copy(short / "two", tmp_path / "stopped", 2)
    config = config_of("sft", stopped, **short_settings(base_dir), resume_from_checkpoint=True)
    if engine:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    with pytest.raises(HfkitError, match="ZeRO-3 with 2 processes"):
        run("sft", config)


@pytest.mark.distributed
@pytest.mark.parametrize(("stage", "more"), [(2, {}), (3, {"offload": "cpu"}), (3, {"bf16": True})])
def test_the_key_deepspeed(stage, more, config_of, base_dir, data, tmp_path):
    settings = {**STEPS, **FULL, "learning_rate": 1e-3, "max_length": 64, "test_split_size": 8, "bf16": "bf16" in more}
    settings |= {"per_device_train_batch_size": 2, "model_name_or_path": str(base_dir)}
    del settings["lora_dropout"], settings["lora_r"]
    file = zero_file(tmp_path, stage, bf16={"enabled": "auto"})
    if "offload" in more:
        content = json.loads(Path(file).read_text()) | {"zero_force_ds_cpu_optimizer": False}
        for name in ("offload_optimizer", "offload_param"):
            content["zero_optimization"][name] = {"device": more["offload"]}
        Path(file).write_text(json.dumps(content))
    run("sft", config_of("sft", tmp_path / "one", **{**settings, "per_device_train_batch_size": 4}, lora_r=None))
    settings |= {"deepspeed": file, "datasets": data / "turns.jsonl", "output_dir": tmp_path / "two"}
    argv = [f"--{name}={value}" for name, value in settings.items()]
    for resumes in ([], ["--resume_from_checkpoint"]):
        ranks = launch_command("sft", *argv, *resumes, engine="multi_gpu")
        assert [rank.status for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
        if not resumes:
            (tmp_path / "two").rename(tmp_path / "whole")
            stopped_copy(tmp_path / "whole", tmp_path / "two", 2)
    assert_same_run(tmp_path / "two", tmp_path / "whole")
    record = read_record(tmp_path / "two")
    assert record["environment"]["engine"] == f"zero{stage}" and record["resumed_from"] == "checkpoint-2"
    tolerance = 0.01 if settings["bf16"] else 1e-4
    for name, weight in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(weights_of(tmp_path / "two")[name].float(), weight, rtol=0, atol=tolerance)
