"""The update against a slow reference in float64, `ppo_reference.py`: every figure and every gradient."""

import copy

import ppo_reference as slow
import pytest
import torch
from ppo_small import PTX, REPLIES, models, small_trainer
from quick import mostly_slow
from torch.optim.optimizer import register_optimizer_step_pre_hook


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def trainer_of(tokenizer, tmp_path):
    """trainer_of(models, **settings)"""
    return lambda parts, **changes: small_trainer(tokenizer, tmp_path, parts, **changes)


def slow_experience(parts: list, rows: list[dict], args) -> dict[str, list[list]]:
    """Everything of the eight responses that an update needs, from the reference."""
    policy, reference, value = parts
    found = {"logprobs": [], "entropies": [], "values": [], "kl": [], "rewards": []}
    for row, reply in zip(rows, REPLIES, strict=True):
        ours, entropies = slow.logprobs(policy, row["input_ids"], reply, args.temperature)
        theirs, _ = slow.logprobs(reference, row["input_ids"], reply, args.temperature)
        kls = slow.kl(ours, theirs, args.kl_estimator)
        found["logprobs"].append(ours)
        found["entropies"].append(entropies)
        found["values"].append(slow.values(value, row["input_ids"], reply))
        found["kl"].append(kls)
        found["rewards"].append(slow.rewards(kls, row["score"], args.kl_coef))
    if args.whiten_rewards:
        found["rewards"] = slow.whitened(found["rewards"], keep_mean=True)
    raw = [
        slow.advantages(paid, states, args.gamma, args.lam)
        for paid, states in zip(found["rewards"], found["values"], strict=True)
    ]
    found["returns"] = [
        [a + v for a, v in zip(row, states, strict=True)] for row, states in zip(raw, found["values"], strict=True)
    ]
    found["advantages"] = slow.whitened(raw)
    return found


def slow_loss(parts: list, rows: list[dict], found: dict, index: list[int], args) -> torch.Tensor:
    """The loss of one optimizer step on the rows of an index."""
    policy, _, value = parts
    total = []
    for position in index:
        prompt, reply = rows[position]["input_ids"], REPLIES[position]
        ours, entropies = slow.logprobs(policy, prompt, reply, args.temperature)
        states = slow.values(value, prompt, reply)
        for t in range(len(reply)):
            old, advantage = found["logprobs"][position][t].detach(), found["advantages"][position][t].detach()
            was, target = found["values"][position][t].detach(), found["returns"][position][t].detach()
            total.append(
                slow.clipped_surrogate(ours[t], old, advantage, args.cliprange)
                + args.vf_coef * slow.clipped_value_error(states[t], was, target, args.cliprange_value)
                - args.entropy_coef * entropies[t]
            )
    loss = sum(total) / len(total)
    if args.ptx_coef:
        parts = [slow.language_loss(policy, row) for row in PTX]
        loss = loss + args.ptx_coef * sum(one for one, _ in parts) / sum(count for _, count in parts)
    return loss


def padded(rows: list[list], like: torch.Tensor) -> torch.Tensor:
    full = torch.zeros_like(like)
    for position, row in enumerate(rows):
        full[position, : len(row)] = torch.stack([torch.as_tensor(one).detach() for one in row])
    return full


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    """To 1e-5 of the tensor's own size."""
    assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm()) + 1e-9, what


@pytest.fixture
def steps_of():
    """steps_of(run) -> weights before and gradients of each optimizer step that it takes."""

    def record(trainer, run) -> list[dict]:
        seen = []

        def keep(optimizer, args, kwargs):
            trained = {role: dict(model.named_parameters()) for role, model in trainer.trained_models.items()}
            grads = {
                (role, n): p.grad.clone() for role, ps in trained.items() for n, p in ps.items() if p.requires_grad
            }
            states = {role: copy.deepcopy(model) for role, model in trainer.trained_models.items()}
            seen.append({"grads": grads, "models": states})

        handle = register_optimizer_step_pre_hook(keep)
        try:
            run()
        finally:
            handle.remove()
        return seen

    return record


CASES = {
    "one step": ("gpt2", False, {"num_ppo_epochs": 1}),
    "k3, mini-batches": ("gpt2", False, {"num_ppo_epochs": 2, "num_mini_batches": 2, "kl_estimator": "k3"}),
    "entropy and ptx": (
        "gpt2",
        False,
        {"num_ppo_epochs": 2, "num_mini_batches": 2, "entropy_coef": 0.1, "ptx_coef": 0.5},
    ),
    "k3, entropy and ptx": (
        "gpt2",
        False,
        {"num_ppo_epochs": 2, "num_mini_batches": 2, "kl_estimator": "k3", "entropy_coef": 0.1, "ptx_coef": 0.5},
    ),
    "whitened rewards": ("gpt2", False, {"num_ppo_epochs": 2, "whiten_rewards": True}),
    "lora": ("llama", True, {"num_ppo_epochs": 2, "num_mini_batches": 4}),
}


@pytest.mark.parametrize("case", mostly_slow(CASES, ["k3, entropy and ptx", "lora"]))
def test_the_update_is_that_of_the_papers(trainer_of, steps_of, case):
    kind, lora, changes = CASES[case]
    parts = models(kind, lora)
    before = [copy.deepcopy(model) for model in parts]
    trainer = trainer_of(parts, **changes)
    args, rows = trainer.args, list(trainer.train_dataset)
    experience, metrics = trainer.experience_maker(rows, REPLIES)
    with torch.no_grad():
        found = slow_experience(before, rows, args)
    for name in ("logprobs", "kl", "values", "advantages", "returns"):
        ours = getattr(experience, name).where(experience.tokens.mask, 0.0)
        close(ours, padded(found[name], ours), name)
    means = {"objective/kl": found["kl"], "objective/rlhf_reward": found["rewards"]}
    if args.whiten_rewards:
        del means["objective/rlhf_reward"]
    for name, lists in means.items():
        assert metrics[name] == pytest.approx(float(sum(sum(row) for row in lists) / len(rows)), rel=1e-5), name
    every = [one for row in found["entropies"] for one in row]
    assert metrics["objective/entropy"] == pytest.approx(float(sum(every) / len(every)), rel=1e-5)

    torch.manual_seed(5)
    figures = {}
    seen = steps_of(trainer, lambda: figures.update(trainer.updater(experience)))
    torch.manual_seed(5)
    orders = [torch.randperm(8).split(8 // args.num_mini_batches) for _ in range(args.num_ppo_epochs)]
    assert len(seen) == args.num_ppo_epochs * args.num_mini_batches
    for step, index in zip(seen, [part.tolist() for order in orders for part in order], strict=True):
        at = [step["models"]["policy"], before[1], step["models"]["value"]]
        for model in at:
            model.zero_grad()
        slow_loss(at, rows, found, index, args).backward()
        for (role, name), grad in step["grads"].items():
            theirs = step["models"][role].get_parameter(name).grad  # None where every token is at its clip
            close(grad, torch.zeros_like(grad) if theirs is None else theirs, f"{role} {name}")
    if args.num_ppo_epochs > 1:  # else no clip would have been tried
        assert figures["policy/clipfrac_avg"] > 0 and figures["val/clipfrac_avg"] > 0


def test_accumulation_changes_nothing(trainer_of, steps_of):
    """One mini-batch of four responses as 4 x 1, 2 x 2 and 1 x 4 rows."""
    found = []
    for size in (1, 2, 4):
        batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "num_mini_batches": 2}
        trainer = trainer_of(models("gpt2", False), num_ppo_epochs=1, ptx_coef=0.5, entropy_coef=0.1, **batch)
        experience, _ = trainer.experience_maker(list(trainer.train_dataset), REPLIES)
        torch.manual_seed(5)
        figures = {}
        steps = steps_of(trainer, lambda t=trainer, e=experience, f=figures: f.update(t.updater(e)))
        found.append((figures, steps))
    (figures, steps), *others = found
    for theirs, their_steps in others:
        assert theirs == pytest.approx(figures, rel=1e-9)
        for one, other in zip(steps, their_steps, strict=True):
            for name, grad in one["grads"].items():
                close(other["grads"][name], grad, name)


@pytest.mark.parametrize("checkpointing", mostly_slow([False, True], [True]))
@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_dropout_that_is_a_number_does_not_move_the_ratio(trainer_of, kind, checkpointing):
    """Of the attention layer in one, of the whole layer in the other; trl's switch for it reaches modules alone."""
    parts = models(kind, False)
    for module in (module for part in parts for module in part.modules()):
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    for part in parts if checkpointing else ():
        part.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = trainer_of(parts, num_ppo_epochs=1, learning_rate=0.0)
    experience, _ = trainer.experience_maker(list(trainer.train_dataset), REPLIES)
    assert trainer.updater(experience)["val/ratio"] == pytest.approx(1.0, abs=1e-9)
