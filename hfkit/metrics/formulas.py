"""Metrics of texts as functions, each with formula and source; for reward models see `preference.py`."""

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> float:
    """Return exp(sum of negative log-likelihoods / number of tokens) (Jelinek et al. 1977).

    Args:
        nats: negative log-likelihood of each text, in nats.
        tokens: number of predicted tokens of each text.
    """
    return float(np.exp(np.sum(nats) / np.sum(tokens)))


def bits_per_byte(nats: Sequence[float], sizes: Sequence[int]) -> float:
    """Return sum of negative log-likelihoods / (ln 2 * bytes), comparable across tokenizers (arXiv 2101.00027).

    Args:
        nats: negative log-likelihood of each text, in nats.
        sizes: bytes of each text in UTF-8.
    """
    return float(np.sum(nats) / np.log(2) / np.sum(sizes))


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of predictions that equal their reference, both stripped (SQuAD, arXiv 1606.05250)."""
    pairs = zip(predictions, references, strict=True)
    return float(np.mean([prediction.strip() == reference.strip() for prediction, reference in pairs]))


def distinct(texts: Sequence[str], n: int) -> float:
    """Return distinct-n: different n-grams / n-grams, over all texts together (Li et al. 2016, arXiv 1510.03055).

    Words are separated by whitespace. 0 if no text has n words.
    """
    grams = [gram for words in map(str.split, texts) for gram in zip(*(words[i:] for i in range(n)), strict=False)]
    return len({*grams}) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU of each text against all others, 0 to 1, high if texts are similar (arXiv 1802.01886).

    BLEU-4 with sacrebleu's tokenizer and exponential smoothing, over the n-gram orders of a text; 0 for fewer than two.
    """
    if len(texts) < 2:
        return 0.0
    bleu = BLEU(effective_order=True)
    others = ([*texts[:index], *texts[index + 1 :]] for index in range(len(texts)))
    scores = [bleu.sentence_score(text, rest).score for text, rest in zip(texts, others, strict=True)]
    return float(np.mean(scores)) / 100


def token_entropy(entropies: Sequence[float], tokens: Sequence[int]) -> float:
    """Return the mean over tokens of -sum_v p(v) ln p(v), in nats (Shannon 1948); each token was sampled from its p.

    Args:
        entropies: entropy of each response, summed over its tokens.
        tokens: number of tokens of each response.
    """
    return float(np.sum(entropies) / np.sum(tokens))


def kl_per_reply(logprobs: Sequence[float], reference_logprobs: Sequence[float]) -> float:
    """Return the mean over responses y, sampled from p, of ln p(y) - ln q(y), in nats: an estimate of KL(p, q).

    It is the k1 estimator of http://joschu.net/blog/kl-approx.html, summed over the tokens of a response.

    Args:
        logprobs: ln p of each response.
        reference_logprobs: ln q of each response.
    """
    return float(np.mean(np.subtract(logprobs, reference_logprobs)))
