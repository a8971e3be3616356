"""Mean over tokens of -sum_v p(v) ln p(v), in nats (Shannon 1948), p being what the token was sampled from."""

import datasets
import evaluate

from hfkit.metrics.formulas import token_entropy

INPUTS = """
Args:
    predictions: of each reply, the entropy at each of its tokens.
Returns:
    token_entropy
"""


class TokenEntropy(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions):
        return {"token_entropy": token_entropy([sum(reply) for reply in predictions], [*map(len, predictions)])}
