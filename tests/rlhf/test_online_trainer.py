"""TRL's GRPO and RLOO on hfkit's responses: losses, gradients and advantages against formulas written here."""

import copy

import pytest
import torch
from quick import mostly_slow, slow
from torch.nn.functional import log_softmax
from transformers import AutoConfig, AutoModelForCausalLM, PrinterCallback

from hfkit.core.compat_logged import logged_counts, logged_since
from hfkit.data.forms import PROMPTS, encode_prompts
from hfkit.data.splits import load_splits
from hfkit.models.generation import stop_ids
from hfkit.models.tokenizers import load_stage_tokenizer
from hfkit.rlhf import GRPOTrainer, RLOOTrainer
from hfkit.rlhf.rewards import load_scorer
from hfkit.rlhf.roles import load_scored_policy
from hfkit.stages.online import left_padded
from hfkit.training.arguments import trainer_arguments

CLASSES = {"grpo": GRPOTrainer, "rloo": RLOOTrainer}


@pytest.fixture
def reward_file(tmp_path):
    """A reward that an update can raise: the share of vowels in a response."""
    file = tmp_path / "vowels.py"
    file.write_text(
        "def vowels(prompts, replies, **_):\n"
        "    return [sum(one in 'aeiou' for one in reply) / max(len(reply), 1) for reply in replies]\n"
    )
    return f"{file}:vowels"


@pytest.fixture
def make(config_of, tmp_path, reward_file):
    """make(stage, **changes) -> a trainer that keeps the batches that it learns from, in `seen`."""

    def trainer_of(stage: str, **changes):
        rewarded = {"reward_model_path": None, "reward_functions": [reward_file]}
        config = config_of(stage, tmp_path / "out", **{**rewarded, **changes})
        tokenizer = load_stage_tokenizer(config)
        rows, _, stats = load_splits(config, PROMPTS, config.reward_columns)
        rows = encode_prompts(rows, tokenizer, stats["train"], config)
        loaded = load_scored_policy(config)
        scorer = load_scorer(config, tokenizer, None, None, stop_ids(loaded.policy.generation_config, tokenizer))

        class Recording(CLASSES[stage]):
            def compute_loss(self, model, inputs, *args, **kwargs):
                seen.append({name: values.clone() for name, values in inputs.items()})
                return super().compute_loss(model, inputs, *args, **kwargs)

        seen: list[dict] = []
        made = Recording(
            model=loaded.policy,
            ref_model=loaded.reference,
            scorer=scorer,
            args=trainer_arguments(config),
            train_dataset=rows,
            eval_dataset=None,
            processing_class=left_padded(tokenizer),
        )
        made.seen = seen
        return made

    return trainer_of


# What a batch of responses of several lengths costs, one row at a time and in float64

LENGTHS = [(9, 6), (4, 2), (6, 1), (5, 5), (9, 3), (7, 6)]


def padded_batch(trainer) -> dict:
    """Rows of several lengths, as TRL has them, with log-probabilities of an older policy and of a reference."""
    generator = torch.Generator().manual_seed(0)
    count, longest, replies = len(LENGTHS), max(p for p, _ in LENGTHS), max(r for _, r in LENGTHS)
    pad = trainer.processing_class.pad_token_id
    batch = {
        "prompt_ids": torch.full((count, longest), pad),
        "prompt_mask": torch.zeros(count, longest, dtype=torch.long),
        "completion_ids": torch.full((count, replies), pad),
        "completion_mask": torch.zeros(count, replies, dtype=torch.long),
        "advantages": torch.randn(count, generator=generator),
        "num_items_in_batch": torch.tensor(sum(r for _, r in LENGTHS)),
    }
    for row, (prompt, reply) in enumerate(LENGTHS):
        batch["prompt_ids"][row, longest - prompt :] = torch.randint(5, 300, (prompt,), generator=generator)
        batch["prompt_mask"][row, longest - prompt :] = 1
        batch["completion_ids"][row, :reply] = torch.randint(5, 300, (reply,), generator=generator)
        batch["completion_mask"][row, :reply] = 1
    return batch


def copied(model):
    """A copy in float64, without the forward method that TRL sets, which would still be that of the model."""
    copy_of = copy.deepcopy(model).double()
    vars(copy_of.get_base_model()).pop("forward", None)
    return copy_of


def row_logprobs(model, batch: dict, row: int, temperature: float) -> torch.Tensor:
    """Log-probabilities of the tokens of one response, without padding, in the model's dtype."""
    prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] > 0]
    reply = batch["completion_ids"][row][batch["completion_mask"][row] > 0]
    logits = model(input_ids=torch.cat([prompt, reply]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
    return log_softmax(logits / temperature, -1).gather(1, reply.unsqueeze(1)).squeeze(1)


def expected_loss(stage: str, kind: str, model, batch: dict, old: list, ref: list, args) -> torch.Tensor:
    """GRPO, eq. 3 of arXiv 2402.03300 with the k3 estimator; RLOO, arXiv 2402.14740, with PPO's clip of sequences."""
    losses, tokens = [], []
    for row, advantage in enumerate(batch["advantages"].double()):
        logprobs = row_logprobs(model, batch, row, args.temperature)
        if stage == "rloo":
            ratio = (logprobs.sum() - old[row].sum()).exp()
            losses.append(-torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
            continue
        ratio = (logprobs - old[row]).exp()
        gap = ref[row] - logprobs
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        losses.append(-(surrogate - args.beta * (gap.exp() - gap - 1)))
        tokens.append(len(logprobs))
    if stage == "rloo":
        return torch.stack(losses).mean()
    if kind == "grpo":
        return torch.stack([loss.mean() for loss in losses]).mean()
    if kind == "dr_grpo":
        return torch.stack([loss.sum() for loss in losses]).sum() / (len(losses) * args.max_completion_length)
    return torch.cat(losses).sum() / sum(tokens)  # dapo; bnpo of one batch


@pytest.mark.parametrize("together", mostly_slow([True, False], [True]), ids=["micro-batches", "whole"])
@pytest.mark.parametrize(
    ("stage", "kind"),
    mostly_slow(
        [("grpo", "grpo"), ("grpo", "dapo"), ("grpo", "dr_grpo"), ("grpo", "bnpo"), ("rloo", None)],
        [("grpo", "grpo"), ("grpo", "dapo"), ("rloo", None)],
    ),
)
def test_loss_and_gradients_are_those_of_the_formula(make, stage, kind, together):
    changes = {"gradient_accumulation_steps": 1, "num_generations": 2, "per_device_train_batch_size": 6}
    changes |= {"micro_batches_by_length": together} | ({"max_tokens_per_micro_batch": 24} if together else {})
    trainer = make(stage, **changes, **({"loss_type": kind, "beta": 0.1} if kind else {}))
    trainer.current_gradient_accumulation_steps = 1
    batch, policy = padded_batch(trainer), trainer.policy
    exact = copied(policy)
    other = copy.deepcopy(exact)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        old = [row_logprobs(other, batch, row, trainer.temperature) for row in range(len(LENGTHS))]
        reference = copied(trainer.reference)
        ref = [row_logprobs(reference, batch, row, trainer.temperature) for row in range(len(LENGTHS))]
    for name, rows in (("old_per_token_logps", old), ("ref_per_token_logps", ref)):
        batch[name] = torch.stack([torch.cat([row, torch.zeros(6 - len(row))]) for row in rows]).float()
    if stage == "rloo":
        batch["old_logps"] = torch.stack([row.sum() for row in old]).float()
        batch = {name: values for name, values in batch.items() if not name.endswith("per_token_logps")}
    expected = expected_loss(stage, kind, exact, batch, old, ref, trainer.args)
    expected.backward()
    policy.train()
    assert (len(trainer.split(batch)) > 1) is together
    loss = trainer.compute_loss(policy, batch)
    loss.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    for (name, ours), theirs in zip(policy.named_parameters(), exact.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage", mostly_slow(CLASSES, ["grpo"]))
def test_an_update_of_accumulated_micro_batches_is_that_of_whole_batches(make, stage):
    """With room for all rows of a step, one forward pass computes them."""
    moved, passes = [], []
    budgets = [{"max_tokens_per_micro_batch": 40, "pad_to_multiple_of": 8}, {"max_tokens_per_micro_batch": 10_000}]
    for cut in ({"micro_batches_by_length": False}, *budgets):
        trainer = make(stage, max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=1e9, **cut)
        assert (trainer.sharing_width is not None) is cut.get("micro_batches_by_length", True)
        counted: list[bool] = []
        widths: set[int] = set()

        def count(_, args, inputs, counted=counted, widths=widths):
            counted.append(torch.is_grad_enabled())
            widths.add(inputs["input_ids"].shape[1])

        trainer.policy.register_forward_pre_hook(count, with_kwargs=True)
        before = {name: values.detach().clone() for name, values in trainer.policy.named_parameters()}
        trainer.train()
        after = {name: values.detach() for name, values in trainer.policy.named_parameters()}
        moved.append({name: after[name] - values for name, values in before.items()})
        passes.append(sum(counted))
        assert any(width % 8 for width in widths) == ("pad_to_multiple_of" not in cut)
    accumulated = trainer.args.gradient_accumulation_steps
    assert passes[0] == accumulated > 1 and passes[1] > accumulated and passes[2] == 1
    assert max(one.abs().max() for one in moved[0].values()) > 1e-4
    for name, whole in moved[0].items():
        for ours in moved[1:]:
            torch.testing.assert_close(ours[name], whole, rtol=1e-3, atol=1e-6, msg=name)


METRICS = [("grpo", "token"), ("bnpo", "sequence"), ("cispo", "sequence"), ("luspo", "sequence"), ("vespo", "token")]


@pytest.mark.parametrize("truncated", [slow(()), (1, 4)], ids=["all rows", "two rows masked"])
@pytest.mark.parametrize(
    ("kind", "level"), mostly_slow([*METRICS, (None, "sequence")], [("grpo", "token"), (None, "sequence")])
)
def test_metrics_of_micro_batches_are_those_of_the_whole_batch(make, kind, level, truncated):
    changes = {"gradient_accumulation_steps": 1, "num_generations": 2, "per_device_train_batch_size": 6}
    changes |= {"loss_type": kind} if kind else {}
    changes |= {"importance_sampling_level": level} if kind not in (None, "vespo") else {}
    changes |= {"cispo": {"epsilon_high": 1.001}, "vespo": {}}.get(kind, {"epsilon": 1e-3})
    trainer = make("grpo" if kind else "rloo", max_tokens_per_micro_batch=24, **changes)
    trainer.current_gradient_accumulation_steps = 1
    batch, generator = padded_batch(trainer), torch.Generator().manual_seed(2)
    for row in truncated:  # as mask_truncated_completions does
        batch["completion_mask"][row] = 0
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        logprobs = torch.rand(batch["completion_ids"].shape, generator=generator) / 10 - 5.7
        batch[name] = logprobs * batch["completion_mask"]
    batch["old_logps"] = batch["old_per_token_logps"].sum(1)
    trainer.policy.train()
    logged = []
    for cut in (False, True):
        trainer.args.micro_batches_by_length = cut
        before = logged_counts(trainer, "train")
        trainer.compute_loss(trainer.policy, batch)
        logged.append(logged_since(trainer, before))
    assert len(trainer.split(batch)) > 2 and {len(part["advantages"]) for part in trainer.split(batch)} != {1}
    assert logged[1] == pytest.approx(logged[0], rel=1e-4, abs=1e-6) and "entropy" in logged[0]


@pytest.mark.parametrize("accumulated", [slow(1), 2])
def test_the_kl_of_an_update_is_that_of_the_responses_it_learns_from(make, accumulated):
    """By k3 with importance weights (arXiv 2512.02556), although each update learns from some responses only."""
    changes = {"max_steps": 4, "steps_per_generation": 4, "per_device_train_batch_size": 4, "logging_steps": 1}
    trainer = make("grpo", gradient_accumulation_steps=accumulated, learning_rate=1e-2, **changes)
    compute_loss, found = trainer.compute_loss, []

    def measured(model, batch, *args, **kwargs):
        with torch.no_grad():
            for row, mask in enumerate(batch["completion_mask"] > 0):
                logprobs = row_logprobs(trainer.policy, batch, row, trainer.args.temperature)
                gap, ratio = batch["ref_per_token_logps"][row][mask].double() - logprobs.double(), 1.0
                if "old_per_token_logps" in batch:
                    ratio = (logprobs - batch["old_per_token_logps"][row][mask]).exp()
                found.append(float(((gap.exp() - gap - 1) * ratio).sum()))
        return compute_loss(model, batch, *args, **kwargs)

    trainer.compute_loss = measured
    trainer.train()
    logged = [row["objective/kl"] for row in trainer.state.log_history if "objective/kl" in row]
    of_updates = torch.tensor(found).view(4, -1).mean(1).tolist()
    assert logged == pytest.approx(of_updates, rel=1e-3, abs=1e-6) and of_updates[-1] > 1e-4


# Advantages, of what a run has sampled


def groups_of(trainer, batches: list[dict]) -> dict[tuple, list[tuple[float, float]]]:
    """The reward and the advantage of each response, by its prompt."""
    found: dict[tuple, list[tuple[float, float]]] = {}
    for batch in batches:
        for row in range(len(batch["advantages"])):
            prompt, reply = (
                batch[f"{name}_ids"][row][batch[f"{name}_mask"][row] > 0].tolist() for name in ("prompt", "completion")
            )
            text = trainer.processing_class.decode(reply, skip_special_tokens=True)
            reward = sum(one in "aeiou" for one in text) / max(len(text), 1)
            found.setdefault(tuple(prompt), []).append((reward, float(batch["advantages"][row])))
    return found


@pytest.mark.parametrize("stage", CLASSES)
def test_advantages_compare_the_replies_to_a_prompt(make, stage):
    trainer = make(stage, max_steps=1)
    trainer.train()
    groups = groups_of(trainer, trainer.seen)
    assert [len(group) for group in groups.values()] == [4, 4]
    for group in groups.values():
        rewards, advantages = torch.tensor(group).unbind(1)
        if stage == "grpo":  # arXiv 2402.03300, 4.1.2
            expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        else:  # arXiv 2402.14740, eq. 8: less the mean of the others; the first KL is 0
            expected = rewards - (rewards.sum() - rewards) / 3
        torch.testing.assert_close(advantages, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", mostly_slow(CLASSES, ["grpo"]))
def test_the_base_is_in_memory_once_and_only_the_adapter_moves(make, stage):
    trainer = make(stage, max_steps=2)
    assert set(trainer.policy.peft_config) == {"default"}
    before = {name: values.clone() for name, values in trainer.policy.named_parameters()}
    reference = {name: values.clone() for name, values in trainer.reference.named_parameters()}
    trainer.train()
    held = dict(trainer.reference.named_parameters())
    for name, values in trainer.policy.named_parameters():
        is_adapter = "lora_" in name
        assert (values.data_ptr() == held[name].data_ptr()) is not is_adapter
        assert torch.equal(held[name], reference[name]) and (is_adapter or torch.equal(values, before[name]))
    assert any(not torch.equal(values, before[name]) for name, values in trainer.policy.named_parameters())


@pytest.mark.parametrize("stage", mostly_slow(CLASSES, ["grpo"]))
def test_dropout_that_is_not_a_module_is_off(make, tokenizer, tmp_path, stage):
    """OPT passes its probability to a function, which TRL's `disable_dropout` does not find."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2, "dropout": 0.5}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model("opt", vocab_size=len(tokenizer), num_attention_heads=2, **sizes, **ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "opt")
    tokenizer.save_pretrained(tmp_path / "opt")
    whole = {"model_name_or_path": str(tmp_path / "opt"), "use_peft": None, "num_iterations": 2, "max_steps": 2}
    trainer = make(stage, learning_rate=0.0, **whole)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "objective/kl" in log]
    assert len(logs) == 2 and max(abs(log["objective/kl"]) for log in logs) < 1e-5
    assert {log["clip_ratio/region_mean"] for log in logs} == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("stage", CLASSES)
def test_the_reward_of_an_easy_function_rises(make, tmp_path, stage):
    file, count = tmp_path / "letters.py", "sum(one.islower() for one in reply)"
    file.write_text(f"def letters(prompts, replies, **_):\n    return [float({count}) for reply in replies]\n")
    trainer = make(
        stage,
        reward_functions=[f"{file}:letters"],
        max_steps=8,
        learning_rate=1e-2,
        per_device_train_batch_size=16,
        num_generations=8,
        beta=0.001,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    rewards = [log["objective/scores"] for log in trainer.state.log_history if "objective/scores" in log]
    assert sum(rewards[-4:]) / 4 > 1.5 * rewards[0], rewards
