"""Self-BLEU: mean BLEU of each text against all the others, from 0 to 1, high if texts are similar (Zhu et al. 2018,
arXiv 1802.01886). BLEU is sacrebleu's."""

import datasets
import evaluate

from hfkit.metrics.formulas import self_bleu


class SelfBleu(evaluate.Metric):
    """Inputs and outputs of `compute`.

    Args:
        predictions: texts, at least two.

    Returns:
        self_bleu
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=self.__doc__, features=features)

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        return {"self_bleu": self_bleu(predictions)}
