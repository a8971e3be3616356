"""Mean over tokens of -sum_v p(v) ln p(v), in nats (Shannon 1948); each token was sampled from its p."""

import datasets
import evaluate

from hfkit.metrics.formulas import token_entropy


class TokenEntropy(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        predictions: for each response, the entropy at each token, in nats.

    Returns:
        token_entropy
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, predictions: list[list[float]]) -> dict[str, float]:
        return {"token_entropy": token_entropy([sum(reply) for reply in predictions], [*map(len, predictions)])}
