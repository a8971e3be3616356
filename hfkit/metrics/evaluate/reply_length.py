"""Mean length of responses, in tokens."""

import datasets
import evaluate
import numpy as np


class ReplyLength(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        predictions: token ids of each response.

    Returns:
        reply_length
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, predictions: list[list[int]]) -> dict[str, float]:
        return {"reply_length": float(np.mean([*map(len, predictions)]))}
