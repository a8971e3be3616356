"""distinct-1, distinct-2: different n-grams / n-grams, over all texts together (Li et al. 2016, arXiv 1510.03055)."""

import datasets
import evaluate

from hfkit.metrics.formulas import distinct


class Distinct(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        predictions: texts; words are separated by whitespace.

    Returns:
        distinct_1, distinct_2
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        return {"distinct_1": distinct(predictions, 1), "distinct_2": distinct(predictions, 2)}
