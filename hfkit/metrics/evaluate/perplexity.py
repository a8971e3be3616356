"""Perplexity and bits per byte of texts, from their negative log-likelihoods.

perplexity = exp(sum nats / sum tokens) (Jelinek et al. 1977); bits_per_byte = sum nats / (ln 2 * sum bytes)
(arXiv 2101.00027), which no tokenizer can flatter.
"""

import datasets
import evaluate

from hfkit.metrics.formulas import bits_per_byte, perplexity

INPUTS = """
Args:
    nats: negative log-likelihood of each text.
    tokens: how many tokens of each were predicted.
    bytes: size of each in UTF-8.
Returns:
    perplexity, bits_per_byte
"""


class Perplexity(evaluate.Metric):
    """See the module."""

    def _info(self):
        kinds = {"nats": "float64", "tokens": "int64", "bytes": "int64"}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, nats, tokens, bytes):
        return {"perplexity": perplexity(nats, tokens), "bits_per_byte": bits_per_byte(nats, bytes)}
