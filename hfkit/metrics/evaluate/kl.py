"""KL of a policy to a reference on replies that the policy sampled: mean of ln p(y) - ln q(y), in nats per reply.

It is the k1 estimator of http://joschu.net/blog/kl-approx.html, summed over a reply: the KL that PPO pays.
"""

import datasets
import evaluate

from hfkit.metrics.formulas import kl_per_reply

INPUTS = """
Args:
    predictions: of each reply, the policy's log-probability of each token, in nats.
    references: the reference's.
Returns:
    kl
"""


class KL(evaluate.Metric):
    """See the module."""

    def _info(self):
        kind = datasets.Sequence(datasets.Value("float64"))
        features = datasets.Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions, references):
        return {"kl": kl_per_reply([sum(reply) for reply in predictions], [sum(reply) for reply in references])}
