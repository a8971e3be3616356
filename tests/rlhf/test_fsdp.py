"""PPO's full fine-tuning under FSDP2: the updates and responses of one process, and runs that save, resume and open."""

import copy
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from forks import run_without_hfkit
from interruption import assert_same_run, stopped_copy
from peft import LoraConfig, TaskType, get_peft_model
from ppo_small import PTX, REPLIES, models, small_trainer
from processes import WORLD, launch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from hfkit.core.device import process_state
from hfkit.models import token_predictions
from hfkit.models.generation import sample_replies
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.record import read_record
from hfkit.rlhf.sharding import whole_weights
from hfkit.training.sharding import gathered

SETTINGS = {"per_device_train_batch_size": 1, "num_ppo_epochs": 2, "seed": 3}
SETTINGS |= {"entropy_coef": 0.1, "ptx_coef": 0.5, "max_grad_norm": 0.1}  # a clip that is active
SETTINGS |= {"max_tokens_per_micro_batch": 22}  # by their rows alone, the processes would make 2 micro-batches and 3
BF16, CPU = torch.bfloat16, torch.device("cpu")
LOGITS = token_predictions.LOGITS["cpu"]
RANKS = 3
"""Processes among which hidden states of 16 and a head of one row do not divide evenly."""


def made(adapter: bool = False, tied: bool = False, empty: bool = False) -> list[torch.nn.Module]:
    """Policy, reference and value model; with an adapter for a value model, or one weight for embeddings and head.

    Args:
        empty: whether the main process alone has weights, as with `cpu_ram_efficient_loading`.
    """
    policy, reference, value = models("llama", lora=False, tie_word_embeddings=tied)
    if adapter:
        value = get_peft_model(value, LoraConfig(r=2, task_type=TaskType.SEQ_CLS, init_lora_weights=False)).double()
    kept: dict = {}
    for module in (one for model in (policy, reference, value) for one in model.modules()):
        for name, p in module.named_parameters(recurse=False) if empty and os.environ.get("RANK", "0") != "0" else ():
            setattr(module, name, kept.setdefault(p, torch.nn.Parameter(p.to("meta"), p.requires_grad)))
    return [policy, reference, value]


def share_held(parts: list[torch.nn.Module]) -> float:
    """The share of the parameters' elements that this process holds."""
    parameters = [parameter for part in parts for parameter in part.parameters()]
    held = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return sum(map(torch.numel, held)) / sum(map(torch.numel, parameters))


def updated(
    tokenizer_dir: Path, folder: Path, rows: int, parts: list, warmup: bool = False, chunk: int = 1000, **changes
) -> dict:
    """Two updates on the first rows, of which each process has its share: metrics, weights, and what it held between.

    Args:
        warmup: whether only the value model learns in the first one.
        chunk: tokens whose logits are computed at a time.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    settings = SETTINGS | {"gradient_accumulation_steps": rows // world} | changes
    trainer = small_trainer(load_tokenizer(str(tokenizer_dir)), folder, parts, ptx=PTX * 4, **settings)
    rank, share = trainer.args.process_index, trainer.args.local_batch_size
    mine = slice(rank * share, (rank + 1) * share)
    held, metrics = [share_held(parts)], {}
    token_predictions.LOGITS["cpu"] = 400 * chunk
    for step in range(2):
        experience, found = trainer.experience_maker(list(trainer.train_dataset)[mine], REPLIES[mine])
        held.append(share_held(parts))
        found |= trainer.updater(experience, policy_learns=not (warmup and step == 0))
        held.append(share_held(parts))
        metrics |= {f"{step}/{name}": value for name, value in found.items()}
    trained = trainer.trained_models.items()
    weights = {f"{role}.{n}": gathered(p.data, CPU) for role, model in trained for n, p in model.named_parameters()}
    return {"metrics": metrics, "weights": weights, "held": held}


CASES = {
    "checkpointing": {"gradient_checkpointing": True},
    "rows as they come": {"micro_batches_by_length": False},
    "warmup": {"warmup": True},
    "tied": {"tied": True},
    "tied and loaded by the main process": {"tied": True, "empty": True},
    "adapter": {"adapter": True},
    "logits in chunks": {"chunk": 3},
}


def update(tokenizer_dir: Path, folder: Path, rows: int, cases: list[str]) -> None:
    """Run the updates of some cases and write the results to a file."""
    process_state()  # with the launch's own settings, before the trainer's arguments
    torch.set_default_dtype(torch.float64)
    try:
        found = {}
        for case in cases:
            changes = dict(CASES.get(case, {}))
            parts = made(*(changes.pop(name, False) for name in ("adapter", "tied", "empty")))
            found[case] = updated(tokenizer_dir, folder, rows, parts, **changes)
    finally:
        torch.set_default_dtype(torch.float32)
        token_predictions.LOGITS["cpu"] = LOGITS
    torch.save(found, folder / f"rank-{os.environ.get('RANK', 'none')}.pt")


def check_updates(tokenizer_dir: Path, folder: Path, rows: int, cases: list[str], world: int, work=update) -> None:
    """Each process has the metrics and weights of one alone, up to the order of sums, and holds a shard in between.

    Args:
        work: what the processes do: `update`, and maybe more.
    """
    launch(work, tokenizer_dir, folder, rows, cases, engine="fsdp2", world=world)
    update(tokenizer_dir, folder, rows, cases)
    alone, *ranks = (torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in ("none", *range(world)))
    for case, expected in alone.items():
        assert expected["held"] == [1.0] * 5
        for shares in zip(*(one[case]["held"] for one in ranks), strict=True):
            assert sum(shares) == pytest.approx(1, abs=1e-12) and max(shares) < 1.2 / world, case
        for one in ranks:
            assert one[case]["metrics"] == pytest.approx(expected["metrics"], rel=1e-12, abs=1e-14), case
            torch.testing.assert_close(one[case]["weights"], expected["weights"], rtol=0, atol=1e-12, msg=case)


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_so_they_do_with_uneven_shards_and_other_settings(tokenizer_dir, tmp_path, case):
    check_updates(tokenizer_dir, tmp_path, rows=6, cases=[case], world=RANKS)


def learn_in_bf16(tokenizer_dir: Path, folder: Path) -> None:
    """One small step in bfloat16: passes with whole weights and layer by layer agree, and no update is rounded away."""
    process_state()
    parts = [model.float() for model in made()]
    before = [{name: parameter.clone() for name, parameter in part.named_parameters()} for part in parts]
    token_predictions.LOGITS["cpu"] = 400 * 3  # three tokens at a time
    settings = {"bf16": True, "micro_batches_by_length": False, "num_ppo_epochs": 1, "learning_rate": 1e-6}
    settings |= {"gradient_accumulation_steps": 4}
    trainer = small_trainer(load_tokenizer(str(tokenizer_dir)), folder, parts, ptx=PTX * 4, **SETTINGS | settings)
    with whole_weights(parts[0]), whole_weights(parts[2]):
        assert {p.dtype for p in parts[0].parameters()} == {p.dtype for p in parts[2].model.parameters()} == {BF16}
        assert parts[2].score.weight.dtype == torch.float32
    mine = slice(4 * trainer.args.process_index, 4 * trainer.args.process_index + 4)
    experience, _ = trainer.experience_maker(list(trainer.train_dataset)[mine], REPLIES[mine])
    metrics = trainer.updater(experience)
    assert metrics["policy/approxkl_avg"] == metrics["policy/clipfrac_avg"] == 0 and metrics["val/ratio"] == 1
    assert experience.values.dtype == torch.float32
    for part, old in zip(parts[::2], before[::2], strict=True):
        for name, parameter in part.named_parameters():
            moved = (gathered(parameter.data, CPU) - old[name]).abs()
            assert parameter.dtype == torch.float32 and 0 < moved.max() < 1.1e-6, name


@pytest.mark.distributed
def test_weights_are_gathered_in_bf16_and_learn_in_float32(tokenizer_dir, tmp_path):
    launch(learn_in_bf16, tokenizer_dir, tmp_path, engine="fsdp2")


def sample(tokenizer_dir: Path, folder: Path) -> None:
    """Responses of the updated policy, of one token in the second process and of up to 40 in the first."""
    process_state()
    torch.set_default_dtype(torch.float64)
    tokenizer, parts = load_tokenizer(str(tokenizer_dir)), made()
    alone = copy.deepcopy(parts[0])
    trainer = small_trainer(tokenizer, folder, parts, response_length=40, **SETTINGS)
    rank, prompts = trainer.args.process_index, trainer.train_dataset["input_ids"][:4]
    trainer.updater(trainer.experience_maker(list(trainer.train_dataset)[:4], REPLIES[:4])[0])
    alone.load_state_dict({name: gathered(p.data, CPU) for name, p in trainer.policy_model.named_parameters()})
    rollouts = trainer.rollouts
    rollouts.stop_token_ids = [*range(400)] if rank else [399]
    torch.manual_seed(rank)
    sampled = [rollouts.sample(prompts) for _ in range(2)]
    torch.manual_seed(rank)
    limits = (40, trainer.args.temperature, trainer.args.local_rollout_forward_batch_size, rollouts.stop_token_ids)
    expected = [sample_replies(alone, tokenizer, prompts, *limits) for _ in range(2)]
    assert sampled == expected
    assert max(map(len, sampled[0])) == (1 if rank else 40)
    assert share_held(parts) < 0.51
    trainer.save_model(str(folder / "saved"))
    trainer.accelerator.wait_for_everyone()
    saved = AutoModelForCausalLM.from_pretrained(folder / "saved", dtype=torch.float64)
    torch.testing.assert_close(saved.state_dict(), alone.state_dict(), rtol=0, atol=0)
    # a signal ends the responses of one process amid a layer, after which all save
    if rank == 0:
        trainer.policy_model.model.layers[1].mlp.register_forward_hook(interrupt)
    with nullcontext() if rank else pytest.raises(KeyboardInterrupt):
        rollouts.sample(prompts)
    assert share_held(parts) < 0.51
    trainer.start(None)
    trainer.save_checkpoint()
    trainer.accelerator.wait_for_everyone()
    weights = load_file(folder / "checkpoint-0" / "policy_model.safetensors")
    torch.testing.assert_close(weights, dict(alone.named_parameters()), rtol=0, atol=0)


def interrupt(*_) -> None:
    """A forward hook during which Ctrl-C is pressed."""
    raise KeyboardInterrupt


def update_and_sample(tokenizer_dir: Path, folder: Path, rows: int, cases: list[str]) -> None:
    update(tokenizer_dir, folder, rows, cases)
    sample(tokenizer_dir, folder)


@pytest.mark.slow
def test_sharded_processes_make_the_updates_of_one_and_sample_from_the_whole_policy(tokenizer_dir, tmp_path):
    check_updates(tokenizer_dir, tmp_path, rows=8, cases=["plain"], world=WORLD, work=update_and_sample)


def train(config) -> None:
    from hfkit.stages import ppo

    ppo.main(config)


RUN = {"use_peft": False, "gradient_accumulation_steps": 1, "num_mini_batches": 1, "max_steps": 4, "save_steps": 2}
RUN |= {"total_episodes": None, "normalize_rewards": True, "kl_target": 1.0, "sample_steps": 1}
RUN |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "test_split_size": 2}
EFFICIENT_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
PLAIN = """
import sys
import torch
from transformers import AutoModelForCausalLM

given = torch.load(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert torch.equal(model(given["ids"]).logits, given["logits"])
"""


def saved_logits(run: Path, file: Path) -> None:
    """Write the logits of the best checkpoint's policy, on some token ids."""
    policy = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run))
    step, ids = read_record(run)["best_step"], torch.arange(5, 17)[None]
    policy.load_state_dict(load_file(run / f"checkpoint-{step}" / "policy_model.safetensors"))
    torch.save({"ids": ids, "logits": policy.eval()(ids).logits}, file)


@pytest.mark.distributed
def test_a_run_is_that_under_ddp_resumes_and_opens_in_transformers(config_of, run_stage, tmp_path):
    reward = run_stage("reward", tmp_path / "reward", use_peft=False)  # from which the value model is trained whole
    run = {**RUN, "reward_model_path": str(reward)}
    folders = {engine: tmp_path / str(engine) for engine in ("fsdp2", None)}
    for engine, folder in folders.items():
        launch(train, config_of("ppo", folder, **run), engine=engine)
    sharded, replicated = folders.values()
    assert read_record(sharded)["environment"]["processes"] == WORLD
    for file in ("policy_model.safetensors", "value_model.safetensors"):
        one, other = (load_file(folder / "checkpoint-4" / file) for folder in (sharded, replicated))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    stopped = stopped_copy(sharded, tmp_path / "stopped", 2)
    resumed, efficient = config_of("ppo", stopped, **run, resume_from_checkpoint=True), {EFFICIENT_LOADING: "true"}
    launch(train, resumed, engine="fsdp2", environment=efficient)
    assert read_record(stopped)["resumed_from"] == "checkpoint-2"
    assert_same_run(stopped, sharded)
    saved_logits(stopped, tmp_path / "logits.pt")
    run_without_hfkit(PLAIN, str(stopped), str(tmp_path / "logits.pt"), cwd=tmp_path)


@pytest.mark.distributed
def test_a_run_in_bf16_with_an_adapter_on_the_value_model_resumes(config_of, tmp_path):
    run = {**RUN, "bf16": True, "gradient_checkpointing": True, "max_steps": 2, "save_steps": 1, "eval_steps": 1}
    launch(train, config_of("ppo", tmp_path / "whole", **run), engine="fsdp2")
    stopped = stopped_copy(tmp_path / "whole", tmp_path / "stopped", 1)
    launch(train, config_of("ppo", stopped, **run, resume_from_checkpoint=True), engine="fsdp2")
    assert_same_run(stopped, tmp_path / "whole")
    value = load_file(stopped / "checkpoint-2" / "value_model.safetensors")
    assert any("lora_" in name for name in value) and {tensor.dtype for tensor in value.values()} == {torch.float32}
