"""Mean length of replies, in tokens."""

import datasets
import evaluate
import numpy as np

INPUTS = """
Args:
    predictions: token ids of each reply.
Returns:
    reply_length
"""


class ReplyLength(evaluate.Metric):
    """See the module."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions):
        return {"reply_length": float(np.mean([*map(len, predictions)]))}
