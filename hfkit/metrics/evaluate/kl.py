"""KL of a policy to a reference on responses that the policy sampled: mean of ln p(y) - ln q(y), in nats per response.

It is the k1 estimator of http://joschu.net/blog/kl-approx.html, summed over the tokens of a response.
"""

import datasets
import evaluate

from hfkit.metrics.formulas import kl_per_reply


class KL(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        predictions: for each response, the policy's log-probability of each token, in nats.
        references: the same of the reference model.

    Returns:
        kl
    """

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Sequence(datasets.Value("float64"))
        features = datasets.Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        return {"kl": kl_per_reply([sum(reply) for reply in predictions], [sum(reply) for reply in references])}
