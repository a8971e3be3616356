"""PPO in two processes: the update of one process on the same batch, and runs that save, resume and load again."""

import gc
import os
from pathlib import Path

import pytest
import torch
from interruption import assert_same_run, stopped_copy
from ppo_small import EOS, PTX, REPLIES, SCORES, models, small_trainer
from processes import WORLD, launch

from hfkit.models.engine_errors import EngineError
from hfkit.models.loading import load_policy
from hfkit.models.tokenizers import load_tokenizer
from hfkit.records.record import read_record
from hfkit.rlhf import update as updating
from hfkit.rlhf.policy_evaluation import evaluate_policy
from hfkit.rlhf.rollout import engine_of

BATCH = {"per_device_train_batch_size": 2, "num_ppo_epochs": 2, "entropy_coef": 0.1, "ptx_coef": 0.5, "seed": 3}


def update(tokenizer_dir: Path, folder: Path, accumulation: int) -> None:
    """Two passes over the eight responses, split among the processes; the result goes to a file."""
    torch.set_default_dtype(torch.float64)
    parts = models("llama", lora=True)
    if os.environ.get("RANK") == "1":  # whose adapters were drawn with another seed
        for model in parts[::2]:
            for parameter in model.parameters():
                parameter.data.add_(parameter.requires_grad)
    trainer = small_trainer(
        load_tokenizer(str(tokenizer_dir)),
        folder,
        parts,
        ptx=PTX * 4,  # more than a step takes: each process has its own rows
        gradient_accumulation_steps=accumulation,
        **BATCH,
    )
    rank, share = trainer.args.process_index, trainer.args.local_batch_size
    mine = slice(rank * share, (rank + 1) * share)
    experience, metrics = trainer.experience_maker(list(trainer.train_dataset)[mine], REPLIES[mine])
    metrics |= trainer.updater(experience)
    taken = []
    for step in range(3):
        trainer.state.episode = step * trainer.args.batch_size
        taken.append([row["score"] for row in trainer.next_rows()])
    weights = {
        f"{role}.{n}": p.data for role, model in trainer.trained_models.items() for n, p in model.named_parameters()
    }
    torch.save({"metrics": metrics, "weights": weights, "taken": taken}, folder / f"rank-{rank}.pt")


def test_two_processes_make_the_update_of_one(tokenizer_dir, in_two, tmp_path):
    first, second = in_two("update")
    try:
        update(tokenizer_dir, tmp_path, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    alone = torch.load(tmp_path / "rank-0.pt", weights_only=True)
    assert [one + other for one, other in zip(first["taken"], second["taken"], strict=True)] == alone["taken"]
    assert first["metrics"] == pytest.approx(second["metrics"], rel=1e-12)
    assert first["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)
    for name, weight in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        assert torch.allclose(first["weights"][name], weight, rtol=1e-6, atol=1e-9), name


def evaluation(tokenizer_dir: Path, folder: Path) -> None:
    """Evaluates on the eight prompts in batches of three; the metrics go to a file."""
    torch.set_default_dtype(torch.float64)
    settings = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 3, "response_length": 6}
    tokenizer, parts = load_tokenizer(str(tokenizer_dir)), models("llama", lora=True)
    trainer = small_trainer(tokenizer, folder, parts, **settings)
    scorer, rows = trainer.experience_maker.scorer, list(trainer.train_dataset)
    found = evaluate_policy(*parts[:2], trainer.processing_class, scorer, rows, trainer.args, [EOS])
    kept = {"replies": found.replies, "rewards": found.rewards, "metrics": found.metrics}
    torch.save(kept, folder / f"rank-{trainer.args.process_index}.pt")


def test_an_evaluation_is_the_same_in_one_process_and_in_two(tokenizer_dir, in_two, tmp_path):
    first, second = in_two("evaluation")
    try:
        evaluation(tokenizer_dir, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    alone = torch.load(tmp_path / "rank-0.pt", weights_only=True)
    assert first["metrics"] == second["metrics"]
    assert first["replies"] == second["replies"] == alone["replies"]
    assert len({*map(tuple, alone["replies"])}) > 4
    assert alone["rewards"].tolist() == pytest.approx(SCORES)
    assert alone["metrics"] == pytest.approx(first["metrics"], rel=1e-6)
    assert alone["metrics"]["kl"] != 0


def lose_engine(tokenizer_dir: Path, folder: Path) -> None:
    """Evaluates with an engine that fails in the second process; the error goes to a file."""
    tokenizer, parts = load_tokenizer(str(tokenizer_dir)), models("llama", lora=True)
    trainer = small_trainer(tokenizer, folder, parts, per_device_train_batch_size=1)
    try:
        with engine_of(trainer.args, parts[0], tokenizer):
            if trainer.args.process_index == 1:
                raise EngineError("lost")
    except EngineError as error:
        (folder / f"error-{trainer.args.process_index}").write_text(str(error))


@pytest.mark.distributed
def test_an_engine_that_fails_in_one_process_fails_in_both(tokenizer_dir, tmp_path):
    launch(lose_engine, tokenizer_dir, tmp_path)
    assert [(tmp_path / f"error-{rank}").read_text() for rank in range(WORLD)] == ["lost"] * WORLD


def gradients(tokenizer_dir: Path, folder: Path, bucket: int) -> None:
    """Sums gradients of which the second process has one less, and neither has the last."""
    parts = models("llama", lora=True)
    trainer = small_trainer(load_tokenizer(str(tokenizer_dir)), folder, parts, per_device_train_batch_size=1)
    rank, trained = trainer.args.process_index, trainer.updater.trained
    trained[1].data = trained[1].data.float()
    updating.BUCKET = bucket
    for index, parameter in enumerate(trained[:-1]):
        if rank == 0 or index != 2:
            parameter.grad = torch.full_like(parameter, index + 10.0 * rank)
    trainer.updater.sum_gradients()
    sums = [None if p.grad is None else (p.grad.dtype, p.grad.unique().tolist()) for p in trained]
    gc.collect()
    wrapped = [one for one in gc.get_objects() if type(one) is torch.nn.parallel.DistributedDataParallel]
    torch.save((sums, len(wrapped)), folder / f"rank-{rank}.pt")


PARTS = {
    "gradients in buckets": (gradients, 100),
    "gradients": (gradients, updating.BUCKET),
    "evaluation": (evaluation,),
    "update": (update, 2),
}


def work(tokenizer_dir: Path, root: Path) -> None:
    """Be a process of the launch of `in_two`."""
    for name, (part, *arguments) in PARTS.items():
        part(tokenizer_dir, root / name, *arguments)


@pytest.fixture(scope="module")
def in_two(tokenizer_dir, tmp_path_factory):
    """in_two(name) -> what each of two processes, launched once, has found in one of `PARTS`."""
    root = tmp_path_factory.mktemp("processes")
    for name in PARTS:
        (root / name).mkdir()
    launch(work, tokenizer_dir, root)
    return lambda name: [torch.load(root / name / f"rank-{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("name", ["gradients in buckets", "gradients"])
def test_gradients_are_summed_where_one_process_has_none(in_two, name):
    (sums, wrapped), other = in_two(name)
    assert other == (sums, wrapped)
    expected = [[2.0 * index + (10.0 if index != 2 else -2.0)] for index in range(len(sums) - 1)]
    assert [values for _, values in sums[:-1]] == expected and sums[-1] is None
    assert [dtype for dtype, _ in sums[:3]] == [torch.float64, torch.float32, torch.float64]
    assert wrapped == 0  # it would keep a copy of all gradients


def train(config) -> None:
    from hfkit.stages import ppo

    ppo.main(config)


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "test_split_size": 2}
CHANGES = {"gradient_accumulation_steps": 1, "num_mini_batches": 1, "max_steps": 2, "save_steps": 1}


def check_a_run(config_of, folder: Path, **changes) -> None:
    """Train, save, resume from a checkpoint to the same end, and load again."""
    launch(train, config_of("ppo", folder / "whole", **CHANGES, **changes))
    record = read_record(folder / "whole")
    assert (record["environment"]["processes"], record["steps"], record["episodes"]) == (WORLD, 2, 8)
    stopped = stopped_copy(folder / "whole", folder / "stopped", 1)
    launch(train, config_of("ppo", stopped, **CHANGES, **changes, resume_from_checkpoint=True))
    assert read_record(stopped)["resumed_from"] == "checkpoint-1"
    assert_same_run(stopped, folder / "whole")
    policy, tokenizer = load_policy(str(stopped))
    assert policy(**tokenizer("Ann", return_tensors="pt", return_token_type_ids=False)).logits.isfinite().all()


@pytest.mark.slow
def test_pain_17_a_run_trains_saves_resumes_and_loads(config_of, tmp_path):
    check_a_run(config_of, tmp_path)


def wavering(prompts, replies) -> list[float]:
    """A reward that differs from process to process: only the second one finds each evaluation better than the last."""
    global asked
    asked += 1
    return [float(asked if os.environ.get("RANK") == "1" else -asked)] * len(replies)


asked = 0


@pytest.mark.slow
def test_processes_agree_on_the_best_checkpoint_where_their_rewards_waver(config_of, tmp_path):
    rewards = {"reward_model_path": None, "reward_functions": [f"{__name__}:wavering"]}
    launch(train, config_of("ppo", tmp_path / "run", **CHANGES, **rewards, **EVALUATED))
    assert read_record(tmp_path / "run")["steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"use_peft": False},
        {"load_in_4bit": True, "normalize_rewards": True, "kl_target": 1.0, "sample_steps": 1, **EVALUATED},
    ],
    ids=["full", "4-bit"],
)
def test_other_runs_do_as_well(config_of, tmp_path, changes):
    check_a_run(config_of, tmp_path, **changes)
