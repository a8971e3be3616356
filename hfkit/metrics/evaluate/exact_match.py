"""Share of predictions that are their reference, but for white space around them (SQuAD, arXiv 1606.05250)."""

import datasets
import evaluate

from hfkit.metrics.formulas import exact_match

INPUTS = """
Args:
    predictions: texts.
    references: what they should be.
Returns:
    exact_match
"""


class ExactMatch(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions, references):
        return {"exact_match": exact_match(predictions, references)}
