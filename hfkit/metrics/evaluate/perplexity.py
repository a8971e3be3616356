"""Perplexity and bits per byte of texts, from their negative log-likelihoods.

perplexity = exp(sum nats / sum tokens) (Jelinek et al. 1977); bits_per_byte = sum nats / (ln 2 * sum bytes)
(arXiv 2101.00027), comparable across tokenizers.
"""

import datasets
import evaluate

from hfkit.metrics.formulas import bits_per_byte, perplexity


class Perplexity(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        nats: negative log-likelihood of each text.
        tokens: number of predicted tokens of each text.
        bytes: size of each text in UTF-8.

    Returns:
        perplexity, bits_per_byte
    """

    def _info(self) -> evaluate.MetricInfo:
        kinds = {"nats": "float64", "tokens": "int64", "bytes": "int64"}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, nats: list[float], tokens: list[int], bytes: list[int]) -> dict[str, float]:
        return {"perplexity": perplexity(nats, tokens), "bits_per_byte": bits_per_byte(nats, bytes)}
