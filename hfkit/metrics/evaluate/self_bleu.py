"""Self-BLEU: mean BLEU of each text against all the others, from 0 to 1, high where they are alike (Zhu et al. 2018,
arXiv 1802.01886). BLEU is sacrebleu's."""

import datasets
import evaluate

from hfkit.metrics.formulas import self_bleu

INPUTS = """
Args:
    predictions: two texts or more.
Returns:
    self_bleu
"""


class SelfBleu(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions):
        return {"self_bleu": self_bleu(predictions)}
