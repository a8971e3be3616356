"""The update against a slow reference in float64, `ppo_reference.py`: every figure and every gradient."""

import copy

import ppo_reference as slow
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hfkit.rlhf.config import PPOConfig
from hfkit.rlhf.scores import Scorer
from hfkit.rlhf.trainer import PPOTrainer

SHAPES = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
}
EOS = 0
LENGTHS = [1, 5, 3, 9, 2, 7, 4, 6]
# What ends at once, what ends in the middle, what does not end.
REPLIES = [[EOS], [7, 9, EOS], [11, 12, 13, 14, 15], [21, EOS], [EOS], [31, 32, 33, 34, EOS], [41, 42, 43, 44, 45], [5]]
SCORES = [1.5, -0.5, 0.25, 2.0, -1.0, 0.75, -2.0, 0.1]
SETTINGS = {"temperature": 0.7, "kl_coef": 0.2, "gamma": 0.97, "lam": 0.9, "vf_coef": 0.3, "cliprange": 0.05}
SETTINGS |= {
    "cliprange_value": 0.02,
    "kl_estimator": "k1",
    "entropy_coef": 0.0,
    "ptx_coef": 0.0,
    "whiten_rewards": False,
}
PTX = [
    {"input_ids": [1, 20, 21, 22, 0], "labels": [-100, -100, 21, 22, 0]},
    {"input_ids": [30, 31, 0], "labels": [30, 31, 0]},
    {"input_ids": [1, 50, 51, 52, 53, 54, 0], "labels": [-100, -100, -100, 52, 53, 54, 0]},
    {"input_ids": [60, 61], "labels": [-100, 61]},
]


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def models(kind: str, lora: bool) -> list:
    """Policy, reference and value model with weights large enough that their predictions differ."""
    made = []
    for seed, head in enumerate([AutoModelForCausalLM] * 2 + [AutoModelForSequenceClassification]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, vocab_size=400, num_labels=1, pad_token_id=2, **SHAPES[kind])
        model = head.from_config(config)
        if lora and seed != 1:
            task = TaskType.CAUSAL_LM if head is AutoModelForCausalLM else TaskType.SEQ_CLS
            model = get_peft_model(model, LoraConfig(r=2, task_type=task, target_modules="all-linear"))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 or "lora_" in name:
                    weight.normal_(std=0.2)
        made.append(model.double().eval())
    return made


@pytest.fixture
def trainer_of(tokenizer, tmp_path):
    """trainer_of(models, **settings) on eight prompts whose scores are given."""

    def make(parts: list, **changes) -> PPOTrainer:
        generator = torch.Generator().manual_seed(0)
        prompts = [torch.randint(3, 400, (length,), generator=generator).tolist() for length in LENGTHS]
        rows = [{"prompt": "", "input_ids": ids, "score": score} for ids, score in zip(prompts, SCORES, strict=True)]
        left = copy.deepcopy(tokenizer)
        left.padding_side = "left"
        settings = SETTINGS | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4} | changes
        args = PPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            num_sample_generations=0,
            max_grad_norm=1e9,
            **{"learning_rate": 1e-2, "lr_scheduler_type": "constant", "weight_decay": 0.0} | settings,
        )
        policy, reference, value = parts
        scorer = Scorer(left, functions={"given": lambda prompts, replies, score: score})
        ptx = Dataset.from_list(PTX) if args.ptx_coef else None
        data = Dataset.from_list(rows)
        return PPOTrainer(args, left, policy, reference, None, data, value, scorer=scorer, ptx_rows=ptx)

    return make


def slow_experience(parts: list, rows: list[dict], args) -> dict[str, list[list]]:
    """Everything of the eight replies that an update needs, from the reference."""
    policy, reference, value = parts
    found = {"logprobs": [], "ref_logprobs": [], "entropies": [], "values": [], "kl": [], "rewards": []}
    for row, reply in zip(rows, REPLIES, strict=True):
        ours, entropies = slow.logprobs(policy, row["input_ids"], reply, args.temperature)
        theirs, _ = slow.logprobs(reference, row["input_ids"], reply, args.temperature)
        kls = slow.kl(ours, theirs, args.kl_estimator)
        found["logprobs"].append(ours)
        found["ref_logprobs"].append(theirs)
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
    for place in index:
        prompt, reply = rows[place]["input_ids"], REPLIES[place]
        ours, entropies = slow.logprobs(policy, prompt, reply, args.temperature)
        states = slow.values(value, prompt, reply)
        for t in range(len(reply)):
            old, advantage = found["logprobs"][place][t].detach(), found["advantages"][place][t].detach()
            was, target = found["values"][place][t].detach(), found["returns"][place][t].detach()
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
    for place, row in enumerate(rows):
        full[place, : len(row)] = torch.stack([torch.as_tensor(one).detach() for one in row])
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
            trained = {role: dict(model.named_parameters()) for role, model in trainer.trained.items()}
            grads = {
                (role, n): p.grad.clone() for role, ps in trained.items() for n, p in ps.items() if p.requires_grad
            }
            states = {role: copy.deepcopy(model) for role, model in trainer.trained.items()}
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
    "whitened rewards": ("gpt2", False, {"num_ppo_epochs": 2, "whiten_rewards": True}),
    "lora": ("llama", True, {"num_ppo_epochs": 2, "num_mini_batches": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_update_is_that_of_the_papers(trainer_of, steps_of, case):
    kind, lora, changes = CASES[case]
    parts = models(kind, lora)
    before = [copy.deepcopy(model) for model in parts]
    trainer = trainer_of(parts, **changes)
    args, rows = trainer.args, list(trainer.train_dataset)
    experience, metrics = trainer.judge(rows, REPLIES)
    with torch.no_grad():
        found = slow_experience(before, rows, args)
    for name in ("logprobs", "ref_logprobs", "values", "advantages", "returns"):
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
    seen = steps_of(trainer, lambda: figures.update(trainer.update(experience)))
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
    """One mini-batch of four replies as 4 x 1, 2 x 2 and 1 x 4 rows."""
    found = []
    for size in (1, 2, 4):
        batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "num_mini_batches": 2}
        trainer = trainer_of(models("gpt2", False), num_ppo_epochs=1, ptx_coef=0.5, entropy_coef=0.1, **batch)
        experience, _ = trainer.judge(list(trainer.train_dataset), REPLIES)
        torch.manual_seed(5)
        figures = {}
        steps = steps_of(trainer, lambda t=trainer, e=experience, f=figures: f.update(t.update(e)))
        found.append((figures, steps))
    (figures, steps), *others = found
    for theirs, their_steps in others:
        assert theirs == pytest.approx(figures, rel=1e-9)
        for one, other in zip(steps, their_steps, strict=True):
            for name, grad in one["grads"].items():
                close(other["grads"][name], grad, name)
