"""Share of predictions that equal their reference, both stripped (SQuAD, arXiv 1606.05250)."""

import datasets
import evaluate

from hfkit.metrics.formulas import exact_match


class ExactMatch(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        predictions: texts.
        references: the expected texts.

    Returns:
        exact_match
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"exact_match": exact_match(predictions, references)}
