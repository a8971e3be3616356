"""Two processes under FSDP2, and under DDP, train and save what one process does, and resume to the same bits."""

import json
import os
import shutil
import weakref
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import forks
import pytest
import torch
from accelerate import Accelerator
from conftest import FACTS, SHAPE
from interruption import assert_same_run, assert_same_tensors, stopped_copy
from one_and_two import assert_same_training, weights_of
from processes import launch, start, wait
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.console import is_main_process
from hfkit.core.errors import HfkitError
from hfkit.hub import push_to_hub
from hfkit.models import token_predictions
from hfkit.records.record import read_record
from hfkit.stages import sft
from hfkit.training import sharding
from hfkit.training.checkpoints import checkpoints_in

STEPS = {"lora_dropout": 0.0, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "max_grad_norm": 0.5}
QLORA = {"use_peft": True, "load_in_4bit": True}
FULL = {"use_peft": False, "lora_r": None}
MIXTURE = {**SHAPE, "model_type": "mixtral", "num_local_experts": 4, "num_key_value_heads": 2}
UNEVEN = {**SHAPE, "intermediate_size": 63}
CONTINUED = {"model_config": None, "tokenizer_name_or_path": None}
ACCUMULATED = {"micro_batches_by_length": False, "gradient_accumulation_steps": 2}
BEST = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
SAMPLED = {**CONTINUED, **BEST, "sample_prompts": ["Ann likes"], "test_split_size": 9}
WHOLE = {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
EFFICIENT = {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
RECOMPUTED = {"FSDP_ACTIVATION_CHECKPOINTING": "true"}
VARIANTS = {
    "whole": ("sft", {**FULL, **BEST}, WHOLE),
    "whole-lora": ("sft", BEST, WHOLE),
    "whole-tied": ("pretrain", {"model_config": {**UNEVEN, "tie_word_embeddings": True}}, WHOLE),
    "whole-mixture": ("pretrain", {"model_config": MIXTURE}, WHOLE),
    "efficient": ("sft", FULL, EFFICIENT),
    "efficient-lora": ("reward", {}, EFFICIENT),
    "efficient-full": ("reward", FULL, EFFICIENT),
    "efficient-tied": ("pretrain", {"model_config": {**UNEVEN, "tie_word_embeddings": True}}, EFFICIENT),
    "efficient-qlora": ("reward", QLORA, EFFICIENT),
    "recomputed": ("sft", FULL, RECOMPUTED),
    "checkpointing": ("sft", {**QLORA, "gradient_checkpointing": True}, {}),
    "accumulated": ("sft", {**FULL, **ACCUMULATED}, {}),
    "accumulated-pretrain": ("pretrain", ACCUMULATED, {}),
    "samples": ("pretrain", SAMPLED, {}),
    "samples-lora": ("pretrain", {**SAMPLED, "use_peft": True}, {}),
    "best": ("reward", {**QLORA, **BEST}, {}),
    "head": ("sft", {"lora_target_modules": ["q_proj", "lm_head"]}, {}),
    "no-reshard": ("sft", {}, {"FSDP_RESHARD_AFTER_FORWARD": "false"}),
    "no-wrap": ("sft", {}, {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}),
    "no-wrap-reward": ("reward", {}, {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}),
}
ENGINES = {"ddp": None, "fsdp2": "fsdp2"}
"""What `launch` calls each engine."""
CELLS = {
    "pretrain": ("pretrain", {"model_config": UNEVEN}),
    "pretrain-tied": ("pretrain", {"model_config": {**UNEVEN, "tie_word_embeddings": True}}),
    "pretrain-lora": ("pretrain", {**CONTINUED, "use_peft": True}),
    "pretrain-mixture": ("pretrain", {"model_config": MIXTURE}),
    "pretrain-documents": ("pretrain", {**CONTINUED, "packing": "documents"}),
    "sft": ("sft", FULL),
    "sft-lora": ("sft", {}),
    "sft-qlora": ("sft", QLORA),
    "sft-packed": ("sft", {"packing": True}),
    "reward": ("reward", FULL),
    "reward-lora": ("reward", {}),
    "reward-qlora": ("reward", QLORA),
}


LOGITS = """
import sys
import torch
from peft import AutoPeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

def logits(folder):
    torch.manual_seed(0)
    kinds = [AutoModelForCausalLM, AutoModelForSequenceClassification]
    kind = kinds["reward" in sys.argv[1]]
    if "adapter" in sys.argv[1]:
        from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
        kind = [AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification]["reward" in sys.argv[1]]
    options = {"num_labels": 1} if "reward" in sys.argv[1] else {}
    model = kind.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 36).reshape(2, 16)).logits

one, two = (logits(folder) for folder in sys.argv[2:])
assert one.isfinite().all() and one.std() > 1e-3
torch.testing.assert_close(two, one, rtol=0, atol=2e-4)
"""


def run(stage: str, config) -> None:
    """Run a stage."""
    import_module(f"hfkit.stages.{stage}").main(config)


def run_in_chunks(stage: str, config) -> None:
    """Run a stage that computes the losses of four tokens at a time."""
    token_predictions.LOGITS["cpu"] = 4 * 318
    run(stage, config)


def complete(settings: dict, request) -> dict:
    """The settings of a run, with the model that it continues."""
    base = {"model_name_or_path": str(request.getfixturevalue("base_dir"))}
    return {**STEPS, **settings, **(base if settings.get("model_config", 0) is None else {})}


def check_training(
    stage: str, settings: dict, config_of, folder: Path, work=run, world=2, engine="fsdp2", **options
) -> dict:
    """Train in one process and in several, with the same result; return the settings of the second run."""
    run(stage, config_of(stage, folder / "one", per_device_train_batch_size=4, **settings))
    settings = {**settings, "per_device_train_batch_size": 4 // world}
    launch(work, stage, config_of(stage, folder / "two", **settings), engine=ENGINES[engine], world=world, **options)
    assert_same_training(folder, engine, 1e-5)
    return settings


def check_resuming(stage: str, settings: dict, config_of, folder: Path, engine="fsdp2", **options) -> None:
    """Resume the second run of `check_training` from its first checkpoint, to the same bits."""
    first = checkpoints_in(folder / "two")[-1].name
    stopped = stopped_copy(folder / "two", folder / "stopped", int(first.rpartition("-")[2]))
    config = config_of(stage, stopped, **settings, resume_from_checkpoint=True)
    launch(run, stage, config, engine=ENGINES[engine], **options)
    assert read_record(stopped)["resumed_from"] == first
    assert_same_run(stopped, folder / "two")


def test_two_processes_train_and_save_as_one(config_of, tmp_path):
    check_training("sft", {**STEPS, "max_steps": 2, **QLORA}, config_of, tmp_path)


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_stage(cell, engine, config_of, request, tmp_path):
    stage, settings = CELLS[cell]
    settings = check_training(stage, complete(settings, request), config_of, tmp_path, engine=engine)
    shards = tmp_path / "two" / "checkpoint-2" / "pytorch_model_fsdp_0" / ".metadata"
    assert shards.exists() == (engine == "fsdp2")
    kind = f"{stage} {'adapter' if (tmp_path / 'two' / 'adapter_config.json').exists() else ''}"
    forks.run_without_hfkit(LOGITS, kind, tmp_path / "one", tmp_path / "two", cwd=tmp_path)
    check_resuming(stage, settings, config_of, tmp_path, engine=engine)


@pytest.mark.distributed
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant(variant, config_of, request, tmp_path):
    stage, settings, environment = VARIANTS[variant]
    settings = check_training(stage, complete(settings, request), config_of, tmp_path, environment=environment)
    check_resuming(stage, settings, config_of, tmp_path, environment=environment)


@pytest.mark.distributed
@pytest.mark.parametrize("settings", [FULL, {"lora_target_modules": ["q_proj", "lm_head"]}], ids=["full", "adapter"])
def test_losses_are_summed_in_chunks(settings, config_of, tmp_path):
    check_training("sft", {**STEPS, **settings}, config_of, tmp_path, work=run_in_chunks)


@pytest.mark.distributed
def test_pairs_of_processes_hold_copies_of_shards(config_of, tmp_path):
    hybrid = {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2"}
    hybrid |= {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}
    check_training("sft", {**STEPS, **FULL}, config_of, tmp_path, world=4, environment=hybrid)
    assert read_record(tmp_path / "two")["environment"]["processes"] == 4


@pytest.mark.distributed
def test_rankings_of_two_processes(config_of, rows_file, tmp_path):
    rows = [
        {
            "prompt": f"{name}?",
            "replies": [f"{name} likes {colour} a lot.", colour, f"{colour}, {name}."],
            "scores": [3, 1, 2],
        }
        for name, colour in FACTS
    ]
    check_training("reward", {**STEPS, "datasets": rows_file(rows)}, config_of, tmp_path)
    assert read_record(tmp_path / "two")["metrics"]["eval_loss"] > 0


@pytest.mark.distributed
def test_a_checkpoint_needs_the_engine_that_saved_it(config_of, tmp_path):
    settings = {**STEPS, "max_steps": 2, "save_steps": 1}
    config = config_of("sft", tmp_path / "two", **settings)
    launch(run, "sft", config, engine="fsdp2")
    stopped = stopped_copy(tmp_path / "two", tmp_path / "stopped", 1)
    with pytest.raises(HfkitError, match=r"saved by FSDP2 \(SHARDED_STATE_DICT\), but this launch is DDP or one"):
        run("sft", config_of("sft", stopped, **settings, resume_from_checkpoint=True))


@pytest.mark.distributed
def test_a_run_that_ended_before_it_was_published_is_published(config_of, tmp_path):
    settings = {**STEPS, **BEST, "max_steps": 3}
    launch(run, "reward", config_of("reward", tmp_path / "two", **settings), engine="fsdp2")
    stopped = stopped_copy(tmp_path / "two", tmp_path / "stopped", 3, "checkpoint-2")
    launch(run, "reward", config_of("reward", stopped, **settings, resume_from_checkpoint=True), engine="fsdp2")
    assert_same_run(stopped, tmp_path / "two")


def run_with_other_weights(stage: str, config) -> None:
    """Run a stage in whose second process an adapter is drawn with another seed."""
    load = sft.load_trainable

    def load_other(*given):
        model = load(*given)
        if os.environ["RANK"] == "1":
            next(one for one in model.parameters() if one.requires_grad).data.add_(1e-3)
        return model

    sft.load_trainable = load_other
    run(stage, config)


@pytest.mark.distributed
@pytest.mark.parametrize("environment", [{}, EFFICIENT], ids=["loaded", "broadcast"])
def test_weights_that_differ_are_not_mixed(config_of, tmp_path, environment):
    config = config_of("sft", tmp_path / "two", **STEPS, per_device_train_batch_size=2)
    ranks = wait(start(run_with_other_weights, "sft", config, engine="fsdp2", environment=environment))
    if environment:
        run("sft", config_of("sft", tmp_path / "one", **STEPS, per_device_train_batch_size=4))
        for name, weight in weights_of(tmp_path / "one").items():
            torch.testing.assert_close(weights_of(tmp_path / "two")[name], weight, rtol=0, atol=1e-5)
    else:
        assert [rank.status for rank in ranks] == [1, 1]
        assert "the processes have loaded different weights" in ranks[0].output


def gather_counted(folder: Path) -> None:
    """Gather a sharded model, and write the most whole tensors of before that a process still had."""
    accelerator = Accelerator()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE, vocab_size=318))
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    made, counts, gathered = [], [], sharding.gathered

    def counted(*given):
        counts.append(sum(one() is not None for one in made))
        tensor = gathered(*given)
        made.append(weakref.ref(tensor))
        return tensor

    sharding.gathered = counted
    found = sharding.gathered_weights(model, accelerator)
    assert all(tensor.isfinite().all() for tensor in found.values())
    (folder / os.environ["RANK"]).write_text(json.dumps([len(found), max(counts)]))


@pytest.mark.distributed
def test_the_main_process_alone_keeps_gathered_weights(tmp_path):
    launch(gather_counted, tmp_path, engine="fsdp2")
    (count, _), other = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert count > 10 and other == [0, 0]


def run_pushing(stage: str, config, folder: Path) -> None:
    """Run a stage that copies to a folder what it would push."""

    def copy(config, pushed: Path, *rest):
        if is_main_process() and rest:  # a checkpoint
            shutil.copytree(pushed, folder / rest[1])

    push_to_hub.push_run = copy
    run(stage, replace(config, push_to_hub=True, hub_strategy="every_save"))


@pytest.mark.distributed
@pytest.mark.parametrize("cell", ["sft", "reward-qlora"])
def test_each_checkpoint_is_pushed_whole(cell, config_of, tmp_path):
    stage, settings = CELLS[cell]
    config = config_of(stage, tmp_path / "two", **{**STEPS, **settings})
    launch(run_pushing, stage, config, tmp_path, engine="fsdp2")
    first, last, published = (weights_of(tmp_path / name) for name in ("step 2", "step 4", "two"))
    assert_same_tensors(last, published)
    assert first.keys() == last.keys()
    assert any(not torch.equal(first[name], last[name]) for name in first)


@pytest.mark.distributed
def test_an_evaluation_that_was_interrupted_is_caught_up_on(config_of, tmp_path):
    settings = {**STEPS, **QLORA, "eval_strategy": "steps", "eval_steps": 2}
    launch(run, "sft", config_of("sft", tmp_path / "two", **settings), engine="fsdp2")
    stopped = stopped_copy(tmp_path / "two", tmp_path / "stopped", 2)
    file = stopped / "checkpoint-2" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["log_history"] = [log for log in state["log_history"] if "eval_loss" not in log or log["step"] < 2]
    state["stateful_callbacks"]["TrainerControl"]["args"]["should_evaluate"] = True
    file.write_text(json.dumps(state))
    launch(run, "sft", config_of("sft", stopped, **settings, resume_from_checkpoint=True), engine="fsdp2")
    assert_same_run(stopped, tmp_path / "two")
