"""DPO's loss and gradients against formulas in float64, and against TRL's DPOTrainer."""

import copy
import math

import pytest
import torch
from datasets import Dataset
from quick import mostly_slow, slow
from small_models import model_of
from transformers import AutoConfig, AutoModelForCausalLM
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from hfkit.config.stages import OF_THE_BATCH
from hfkit.core.compat_trl import EncodedRows
from hfkit.rlhf.arguments import DPOArguments
from hfkit.stages.checks.dpo import LOSSES
from hfkit.training.dpo_trainer import MicroBatchedDPOTrainer, PairCollator

BETA = 0.3
REPLIES = [(5, 2), (1, 9), (3, 3), (12, 1), (2, 6), (7, 4)]
"""Tokens of the chosen and of the rejected reply of each pair."""
SMOOTHED = {"exo_pair": 1e-3, "robust": 0.1, "aot": 0.1, "aot_unpaired": 0.1}


class Bare(EncodedRows, DPOTrainer):
    """TRL's trainer on rows that are tokenized already."""


@pytest.fixture(scope="module")
def models(tokenizer):
    """A policy, and a reference that is close to it."""
    policy = model_of("llama", len(tokenizer), spread=0.2)
    reference = copy.deepcopy(policy).requires_grad_(False)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return policy, reference


@pytest.fixture(scope="module")
def pairs() -> list[dict]:
    """Encoded pairs of very different lengths."""
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(5, 300, (count,), generator=draw).tolist()

    rows = []
    for index, counts in enumerate(REPLIES):
        prompt = ids(2 + 3 * index)
        chosen, rejected = (prompt + ids(count) for count in counts)
        rows.append(
            {
                "chosen_ids": chosen,
                "rejected_ids": rejected,
                "spans": [[len(prompt), len(ids)] for ids in (chosen, rejected)],
            }
        )
    return rows


@pytest.fixture
def trainer_of(models, pairs, tokenizer, tmp_path):
    """trainer_of(bare=False, max_tokens=None, policy=..., reference=..., **settings): hfkit's trainer, or TRL's."""

    def make(bare: bool = False, max_tokens: int | None = None, policy=models[0], reference=models[1], **settings):
        policy, reference = copy.deepcopy(policy), copy.deepcopy(reference)
        arguments = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "beta": BETA}
        arguments |= {"max_length": None, "remove_unused_columns": False, "bf16": False, **settings}
        options = {"args": DPOArguments(**arguments), "ref_model": reference, "processing_class": tokenizer}
        if not bare:
            rows, collator = Dataset.from_list(pairs), PairCollator(tokenizer)
            options |= {"train_dataset": rows, "data_collator": collator}
            return MicroBatchedDPOTrainer(policy, max_tokens=max_tokens, **options)
        rows, collator = Dataset.from_list(as_trl_has_them(pairs)), DataCollatorForPreference(tokenizer.pad_token_id)
        return Bare(policy, train_dataset=rows, data_collator=collator, **options)

    return make


def as_trl_has_them(pairs: list[dict]) -> list[dict]:
    names, rows = ("chosen_ids", "rejected_ids"), []
    for row in pairs:
        replies = {name: row[name][start:] for name, (start, _) in zip(names, row["spans"], strict=True)}
        rows.append({"prompt_ids": row["chosen_ids"][: row["spans"][0][0]], **replies})
    return rows


def step(trainer, rows: list[dict]) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    """The loss of a batch of all rows, its gradients, and what TRL would log."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = float(trainer.training_step(trainer.model, trainer.data_collator(rows)))
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters()}
    return loss, gradients, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def accumulated(trainer, batches: list[list[dict]]) -> tuple[float, dict[str, torch.Tensor], list[int]]:
    """The loss and the gradients of an optimizer step on several batches, and the pairs of each batch as computed."""
    collated = (trainer.data_collator(rows) for rows in batches)
    made, items = trainer.get_batch_samples(collated, len(batches), torch.device("cpu"))
    trainer.current_gradient_accumulation_steps = len(made)
    trainer.model.train()
    loss = sum(float(trainer.training_step(trainer.model, batch, items)) for batch in made)
    pairs = [len(batch["input_ids"]) // 2 for batch in made]
    return loss, {name: weight.grad for name, weight in trainer.model.named_parameters()}, pairs


def log_probability(model, ids: list[int], spans: list[int]) -> torch.Tensor:
    """Of the tokens in the spans, of one sequence that is not padded."""
    logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    found = logprobs.gather(1, torch.tensor(ids[1:]).unsqueeze(1))
    return sum(found[begin - 1 : end - 1].sum() for begin, end in zip(spans[::2], spans[1::2], strict=True))


def loss_of_the_papers(models, pairs: list[dict], loss: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss and its gradients in float64.

    sigmoid: Rafailov et al. 2023 (arXiv 2305.18290), equation 7. ipo: Azar et al. 2023 (arXiv 2310.12036), equation 17,
    with log-ratios that are means over the tokens of a response, as TRL has them.
    """
    policy, reference = (copy.deepcopy(model).double() for model in models)
    losses = []
    for row in pairs:
        ratios, counts = [], []
        for name, spans in zip(("chosen_ids", "rejected_ids"), row["spans"], strict=True):
            ratios.append(log_probability(policy, row[name], spans) - log_probability(reference, row[name], spans))
            counts.append(sum(spans[1::2]) - sum(spans[::2]))
        if loss == "sigmoid":
            losses.append(torch.log1p(torch.exp(-BETA * (ratios[0] - ratios[1]))))
        else:
            losses.append((ratios[0] / counts[0] - ratios[1] / counts[1] - 1 / (2 * BETA)) ** 2)
    mean = torch.stack(losses).mean()
    mean.backward()
    return mean.item(), {name: weight.grad.float() for name, weight in policy.named_parameters()}


@pytest.mark.parametrize("max_tokens", mostly_slow([None, 40], [40]), ids=["whole", "micro-batches"])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_loss_and_gradients_on_a_padded_batch_are_those_of_the_papers(trainer_of, models, pairs, loss, max_tokens):
    expected, gradients = loss_of_the_papers(models, pairs, loss)
    found, ours, _ = step(trainer_of(loss_type=[loss], max_tokens=max_tokens), pairs)
    assert found == pytest.approx(expected, rel=1e-5) and abs(expected - math.log(2)) > 1e-3
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("max_tokens", mostly_slow([None, 40], [40]), ids=["whole", "micro-batches"])
@pytest.mark.parametrize("loss", mostly_slow(["sigmoid", "ipo"], ["sigmoid"]))
def test_turns_of_the_user_in_a_response_are_not_trained(trainer_of, models, pairs, loss, max_tokens):
    pairs = copy.deepcopy(pairs)
    for row in pairs:
        for side, name in enumerate(("chosen_ids", "rejected_ids")):
            start, end = row["spans"][side]
            row[name] += [7, 8, 9, 10, 11]
            row["spans"][side] = [start, end, end + 3, end + 5]
    wanted, gradients = loss_of_the_papers(models, pairs, loss)
    trainer = trainer_of(loss_type=[loss], max_tokens=max_tokens)
    found, own, _ = step(trainer, pairs)
    assert found == pytest.approx(wanted, rel=1e-5)
    for name, weight in own.items():
        torch.testing.assert_close(weight, gradients[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", mostly_slow(LOSSES, ["sigmoid", "ipo", "apo_zero", "aot"]))
def test_each_loss_is_that_of_trl(trainer_of, pairs, loss):
    settings = {"loss_type": [loss], "label_smoothing": SMOOTHED.get(loss, 0.0)}
    expected, gradients, metrics = step(trainer_of(bare=True, **settings), as_trl_has_them(pairs))
    trainer = trainer_of(max_tokens=40, **settings)
    assert (trainer.max_tokens is None) == (loss in OF_THE_BATCH)
    found, ours, logged = step(trainer, pairs)
    assert found == pytest.approx(expected, rel=1e-5)
    assert logged == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=5e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": ["sigmoid", "nca_pair"], "loss_weights": [0.8, 0.2]},
        slow({"use_weighting": True}),
        slow({"ld_alpha": 0.5}),
        {"f_divergence_type": "js_divergence"},
        {"precompute_ref_log_probs": True},
    ],
    ids=lambda settings: next(reversed(settings)),
)
def test_further_keys_of_trl_are_exact_in_micro_batches(trainer_of, pairs, settings):
    whole, cut = trainer_of(**settings), trainer_of(max_tokens=40, **settings)
    rows = list(cut.train_dataset)
    (expected, gradients, metrics), (found, ours, logged) = step(whole, rows), step(cut, rows)
    assert len(cut.split(cut.data_collator(rows))) > 2
    assert found == pytest.approx(expected, rel=1e-6)
    assert logged == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("noise", [None, slow(5.0)], ids=["", "neftune"])
def test_what_both_sequences_of_a_pair_begin_with_is_computed_once(trainer_of, models, noise):
    replies = [(12, [5, 6, 7], [5, 6, 9, 10]), (20, [5, 6], [5, 6, 7]), (1, [*range(40, 80)], [*range(41, 81)])]
    pairs = []
    for length, *both in replies:
        chosen, rejected = ([*range(100, 100 + length), *reply] for reply in both)
        spans = [[length, len(chosen)], [length, len(rejected)]]
        pairs.append({"chosen_ids": chosen, "rejected_ids": rejected, "spans": spans})
    trainer, shapes = trainer_of(max_tokens=10_000, neftune_noise_alpha=noise), []
    trainer.train_dataset = trainer.eval_dataset = rows = Dataset.from_list(pairs)
    assert (trainer.sharing_width is None) == bool(noise)
    for model in (trainer.model, trainer.ref_model):
        model.register_forward_pre_hook(
            lambda _, args, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True
        )
    found, gradients, _ = step(trainer, pairs)
    measured = {shape for shape in shapes if shape.numel() > 8}  # a call of 8 tokens measures what calls cost
    # the short prompt with long responses saves no time
    assert measured == {(4, 23) if noise else (2, 23), (2, 41)}
    if noise:
        return
    expected, wanted = loss_of_the_papers(models, pairs, "sigmoid")
    assert found == pytest.approx(expected, rel=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    trainer.model.eval()
    with torch.no_grad():
        assert trainer.held_out_figures(rows)["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_precomputed_reference_is_computed_in_micro_batches_too(trainer_of, pairs):
    whole, cut = (trainer_of(max_tokens=most, precompute_ref_log_probs=True) for most in (None, 60))
    batch, sizes = cut.data_collator(pairs), []
    hook = {"hook": lambda model, args, kwargs: sizes.append(kwargs["input_ids"].numel()), "with_kwargs": True}
    cut.ref_model.register_forward_pre_hook(**hook)
    found = cut.compute_ref_log_probs(cut.ref_model, batch)
    assert len(sizes) > 2 and max(sizes) <= 60
    torch.testing.assert_close(found, whole.compute_ref_log_probs(whole.ref_model, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"precompute_ref_log_probs": True}], ids=["", "precomputed"])
@pytest.mark.parametrize(("sizes", "computed"), [((2, 2, 2), [0, 0, 6]), ((4, 2), [4, 2])], ids=["equal", "unequal"])
def test_batches_of_a_step_are_joined_if_their_mean_stays(trainer_of, sizes, computed, settings):
    whole, cut = trainer_of(**settings), trainer_of(max_tokens=60, **settings)
    rows = iter(list(cut.train_dataset))
    batches = [[next(rows) for _ in range(size)] for size in sizes]
    expected, gradients, _ = accumulated(whole, batches)
    found, ours, pairs = accumulated(cut, batches)
    assert pairs == computed
    assert found == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_dropout_that_is_not_a_module_is_off(trainer_of, tokenizer):
    """OPT passes its probability to a function, which TRL's `disable_dropout` does not find."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2, "dropout": 0.5}
    config = AutoConfig.for_model("opt", vocab_size=len(tokenizer), num_attention_heads=2, **sizes)
    same = AutoModelForCausalLM.from_config(config).eval()
    trainer = trainer_of(policy=same, reference=copy.deepcopy(same))
    loss, *_ = step(trainer, list(trainer.train_dataset))
    assert loss == pytest.approx(math.log(2), abs=1e-6)
