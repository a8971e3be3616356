"""distinct-1, distinct-2: different n-grams / n-grams, over all texts together (Li et al. 2016, arXiv 1510.03055)."""

import datasets
import evaluate

from hfkit.metrics.formulas import distinct

INPUTS = """
Args:
    predictions: texts; words are what white space parts.
Returns:
    distinct_1, distinct_2
"""


class Distinct(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions):
        return {"distinct_1": distinct(predictions, 1), "distinct_2": distinct(predictions, 2)}
