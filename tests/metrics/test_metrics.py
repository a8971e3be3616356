"""Metrics equal those of a second library, or values computed by hand; and load by path as `evaluate` modules."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sacrebleu import corpus_bleu
from scipy.stats import entropy
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss

from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.metrics.evaluate import NAMES, load
from hfkit.metrics.formulas import distinct, self_bleu
from hfkit.metrics.preference import metrics_by_length, metrics_of_margins

EXACT = {"abs": 1e-6, "rel": 0}
RANDOM = np.random.default_rng(0)
LOGITS = torch.randn((2, 5, 11), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def margins(count: int = 400) -> np.ndarray:
    return RANDOM.normal(0.5, 1.5, count)


def logprobs(logits: torch.Tensor) -> list[list[float]]:
    return logits.log_softmax(-1).gather(-1, TOKENS.unsqueeze(-1)).squeeze(-1).tolist()


def test_perplexity_and_bits_per_byte_are_those_of_torchs_cross_entropy():
    nats = [-sum(row) for row in logprobs(LOGITS)]
    loss = torch.nn.functional.cross_entropy(LOGITS.flatten(0, 1), TOKENS.flatten())
    figures = load("perplexity").compute(nats=nats, tokens=[5, 5], bytes=[12, 8])
    assert figures["perplexity"] == pytest.approx(float(loss.exp()), **EXACT)
    assert figures["bits_per_byte"] == pytest.approx(float(loss) * 10 / 20 / math.log(2), **EXACT)


def test_accuracy_and_log_loss_are_sklearns():
    ours = margins()
    p = 1 / (1 + np.exp(-ours))
    figures = metrics_of_margins(ours)
    assert figures["accuracy"] == pytest.approx(accuracy_score(np.ones(400), p > 0.5), **EXACT)
    assert figures["log_loss"] == pytest.approx(log_loss(np.ones(400), p, labels=[0, 1]), **EXACT)


def test_calibration_error_weighs_the_gaps_of_sklearns_calibration_curve():
    ours = margins()
    confidence = 1 / (1 + np.exp(-np.abs(ours)))
    # sklearn splits [0, 1] evenly, and confidences lie in [0.5, 1]: 20 of its bins equal 10 of hfkit's
    right, sure = calibration_curve(ours > 0, confidence, n_bins=20)
    counts = np.histogram(confidence, bins=np.linspace(0, 1, 21))[0]
    expected = np.abs(right - sure) @ counts[counts > 0] / 400
    assert metrics_of_margins(ours)["calibration_error"] == pytest.approx(expected, **EXACT)


def test_large_margins_are_no_overflow():
    figures = metrics_of_margins([1000.0, -1000.0])
    assert figures["log_loss"] == pytest.approx(500)
    assert figures["calibration_error"] == pytest.approx(0.5)


def test_accuracy_by_length():
    # chosen longer and right, twice; chosen longer and wrong; chosen shorter and right; equally long and right
    ours = metrics_by_length([1, 2, -1, 3, 1], [4, 4, 2, -5, 0])
    assert ours == {
        "accuracy_chosen_longer": pytest.approx(2 / 3),
        "accuracy_chosen_shorter": 1,
        "longer_preferred": 0.5,
        "longer_chosen": 0.75,
    }
    assert metrics_by_length([1, -1], [0, 0]) == {}


def test_the_module_of_rewards_is_the_function_that_the_stage_uses():
    ours = margins(50)
    given = {"chosen": ours, "rejected": np.zeros(50), "length_difference": np.arange(50) - 20}
    expected = {**metrics_of_margins(ours), **metrics_by_length(ours, np.arange(50) - 20)}
    assert load("reward_accuracy").compute(**given) == pytest.approx(expected)


def test_exact_match():
    assert load("exact_match").compute(predictions=["In Rome. ", "yes"], references=["In Rome.", "no"]) == {
        "exact_match": 0.5
    }


def test_distinct_counts_different_ngrams():
    texts = ["the cat sat", "the cat ran off"]
    assert load("distinct").compute(predictions=texts) == pytest.approx({"distinct_1": 5 / 7, "distinct_2": 4 / 5})
    grams = [gram for text in texts for gram in pairwise(text.split())]
    assert distinct(texts, 2) == len({*grams}) / len(grams)
    assert distinct(["one"], 2) == 0


def test_self_bleu_is_sacrebleus_corpus_bleu_of_each_against_the_others():
    texts = ["the cat sat on the mat today", "the cat sat on a mat", "a dog lay on the mat today"]
    scores = []
    for index, text in enumerate(texts):
        others = [[other] for rank, other in enumerate(texts) if rank != index]
        scores.append(corpus_bleu([text], others, smooth_method="exp", use_effective_order=True).score / 100)
    assert load("self_bleu").compute(predictions=texts)["self_bleu"] == pytest.approx(np.mean(scores), **EXACT)
    assert self_bleu(["one and the same reply"] * 3) == pytest.approx(1)
    assert self_bleu(["alone"]) == 0


def test_token_entropy_is_scipys():
    entropies = [[float(entropy(p)) for p in row] for row in LOGITS.softmax(-1)]
    ours = torch.distributions.Categorical(logits=LOGITS).entropy()
    expected = {"token_entropy": pytest.approx(np.concatenate(entropies).mean(), **EXACT)}
    assert load("token_entropy").compute(predictions=ours.tolist()) == expected


def test_kl_converges_to_torchs_exact_one():
    p, q = (torch.distributions.Categorical(logits=row) for row in LOGITS[:, 0])
    drawn = p.sample((20_000,))
    figures = load("kl").compute(
        predictions=p.log_prob(drawn).unsqueeze(-1).tolist(), references=q.log_prob(drawn).unsqueeze(-1).tolist()
    )
    assert figures["kl"] == pytest.approx(float(torch.distributions.kl_divergence(p, q)), rel=0.05)
    by_hand = load("kl").compute(predictions=[[-1.0, -2.0], [-0.5]], references=[[-2.0, -2.5], [-0.25]])
    assert by_hand["kl"] == pytest.approx((1.5 - 0.25) / 2, **EXACT)


def test_reply_length():
    assert load("reply_length").compute(predictions=[[1, 2, 3], [4]]) == {"reply_length": 2}


def test_the_interval_of_a_ratio_covers_it_and_that_of_equal_weights_is_the_means():
    nats, tokens = RANDOM.gamma(9, size=200), RANDOM.integers(5, 15, 200)
    low, high = bootstrap_interval(nats, tokens)
    assert low < nats.sum() / tokens.sum() < high
    assert bootstrap_interval(nats, np.full(200, 2)) == pytest.approx([end / 2 for end in bootstrap_interval(nats)])


@pytest.mark.parametrize("name", NAMES)
def test_a_module_loads_by_path_and_describes_itself(name):
    module = load(name)
    assert len(module.description) > 30
    assert "Returns:" in module.inputs_description
