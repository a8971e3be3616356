"""What each metric of a record means, in one line, and its type in the Hub's model index."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from hfkit.config.registry import spec_of
from hfkit.core.tables import interval_text


@dataclass(frozen=True)
class Metric:
    """The meaning of a metric; its type and name in the model index, if it belongs there."""

    meaning: str
    type: str | None = None
    name: str | None = None


_described = yaml.safe_load(Path(__file__).with_name("metrics.yaml").read_text(encoding="utf-8"))
DESCRIPTIONS = {name: Metric(**fields) for name, fields in _described.items()}


def describe_metric(origin: str, key: str) -> Metric:
    """Return the description of a metric of a stage, or of "evaluation"; an unknown metric has an empty meaning."""
    if key == "train_loss":
        spec = spec_of(origin)
        return Metric(f"mean training loss: {spec.loss_label[1]}" if spec else "mean training loss")
    stem = key.removesuffix(f"_{origin}")
    names = [f"{origin}/{key}", f"eval_{key}" if origin == "evaluation" else key]
    names += [f"{stem}_policy"] if stem != key else []  # a metric of the trained model's responses
    return next((DESCRIPTIONS[name] for name in names if name in DESCRIPTIONS), Metric(""))


def numbers_in(metrics: dict) -> dict[str, float]:
    """Return the metrics of a record that are numbers, without the ends of intervals."""
    ends = {f"{key}{end}" for key in metrics for end in ("_low", "_high")}
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and key not in ends}


def metric_text(metrics: dict, key: str) -> str:
    """Return a metric as text, with its 95% interval if it is known."""
    return interval_text(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high"), ".4g")
