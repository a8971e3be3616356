"""How well rewards rank pairs of replies: accuracy, log-loss, calibration error, and the influence of length.

With margin = reward of the chosen response - that of the rejected one, and p = sigmoid(margin) (Bradley and Terry
1952): accuracy = share of margins above 0; log_loss = mean of -ln p; calibration_error = the gap between confidence
and accuracy, over ten bins of confidence (Guo et al. 2017, arXiv 1706.04599). Given lengths: the accuracy on pairs
whose chosen response is longer, and on those whose chosen response is shorter, and how often rewards and labels prefer
the longer response (Singhal et al. 2023, arXiv 2310.03716).
"""

import datasets
import evaluate

from hfkit.metrics.preference import metrics_by_length, metrics_of_margins


class RewardAccuracy(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        chosen: rewards of the chosen responses.
        rejected: rewards of the rejected responses.
        length_difference: length of each chosen response minus that of the rejected one; 0 for all if unknown.

    Returns:
        accuracy, margin, log_loss, calibration_error; and, if lengths differ, accuracy_chosen_longer,
        accuracy_chosen_shorter, longer_preferred, longer_chosen
    """

    def _info(self) -> evaluate.MetricInfo:
        kinds = {"chosen": "float64", "rejected": "float64", "length_difference": "int64"}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, chosen: list[float], rejected: list[float], length_difference: list[int]) -> dict[str, float]:
        margins = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
        return {**metrics_of_margins(margins), **metrics_by_length(margins, length_difference)}
