"""The arithmetic of the figures, each with its formula and source; no model is needed for any of them.

How reward models are measured stands in `preference.py`. As `evaluate` modules all of them are in `metrics/`.
"""

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> float:
    """exp(sum of negative log-likelihoods / number of tokens) (Jelinek et al. 1977).

    Args:
        nats: negative log-likelihood of each text, in nats.
        tokens: how many tokens of each were predicted.
    """
    return float(np.exp(np.sum(nats) / np.sum(tokens)))


def bits_per_byte(nats: Sequence[float], sizes: Sequence[int]) -> float:
    """Sum of negative log-likelihoods / (ln 2 * bytes): compares models whatever their tokenizers (arXiv 2101.00027).

    Args:
        nats: negative log-likelihood of each text, in nats.
        sizes: bytes of each text in UTF-8.
    """
    return float(np.sum(nats) / np.log(2) / np.sum(sizes))


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that are their reference, but for white space around them (SQuAD, arXiv 1606.05250)."""
    pairs = zip(predictions, references, strict=True)
    return float(np.mean([said.strip() == wanted.strip() for said, wanted in pairs]))


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n: different n-grams / n-grams, over all texts together (Li et al. 2016, arXiv 1510.03055).

    Words are what white space parts. 0 where no text has n words.
    """
    grams = [gram for words in map(str.split, texts) for gram in zip(*(words[i:] for i in range(n)), strict=False)]
    return len({*grams}) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU of each text against all the others, from 0 to 1, high where they are alike (arXiv 1802.01886).

    BLEU-4 with sacrebleu's tokenizer and exponential smoothing, over the n-gram orders that a text has. With fewer than
    two texts there is nothing to be alike: 0.
    """
    if len(texts) < 2:
        return 0.0
    bleu = BLEU(effective_order=True)
    others = ([*texts[:place], *texts[place + 1 :]] for place in range(len(texts)))
    scores = [bleu.sentence_score(text, rest).score for text, rest in zip(texts, others, strict=True)]
    return float(np.mean(scores)) / 100


def token_entropy(entropies: Sequence[float], tokens: Sequence[int]) -> float:
    """Mean over tokens of -sum_v p(v) ln p(v), in nats (Shannon 1948), p being what the token was sampled from.

    Args:
        entropies: of each reply, summed over its tokens.
        tokens: of each reply.
    """
    return float(np.sum(entropies) / np.sum(tokens))


def kl_per_reply(logprobs: Sequence[float], reference_logprobs: Sequence[float]) -> float:
    """Mean over replies y that p sampled of ln p(y) - ln q(y), in nats: the KL(p, q) that PPO pays.

    It is the k1 estimator of http://joschu.net/blog/kl-approx.html, summed over a reply.

    Args:
        logprobs: ln p of each reply.
        reference_logprobs: ln q of each reply.
    """
    return float(np.mean(np.subtract(logprobs, reference_logprobs)))
