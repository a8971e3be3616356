"""Measures the held-out error of a run."""

from pathlib import Path

from hfkit.config.evaluation import EvaluateConfig
from hfkit.config.registry import STAGES
from hfkit.evaluation.held_out import load_held_out
from hfkit.evaluation.language_model import loss_metrics
from hfkit.evaluation.replies import Subject
from hfkit.evaluation.results_file import ResultsFile
from hfkit.evaluation.reward_model import evaluate_pairs
from hfkit.models.precision import dtype_to_evaluate
from hfkit.models.reward_model import load_reward
from hfkit.records.record import weights_hash

MOST_ROWS = 1_000
"""Held-out rows that an error is measured on, at most."""


def error_name(stage: str) -> str:
    """Return what the error of a stage is: the loss, or of a reward model the share of pairs that it ranks wrong."""
    return "error (1 - accuracy)" if STAGES[stage].makes == "reward model" else "loss (nats per token)"


def error_of(run: Path, stage: str, results: ResultsFile) -> dict[str, float]:
    """Return `value`, `low` and `high` (95% interval) of a run's error; it is measured once, and kept in `results`."""
    key = weights_hash(run)
    if key not in results:
        config = EvaluateConfig(model_name_or_path=str(run), max_rows=MOST_ROWS, dtype=dtype_to_evaluate(None))
        measure = error_of_reward_model if STAGES[stage].makes == "reward model" else loss_of
        results.add({key: measure(config)})
    return {name: results[key][name] for name in ("value", "low", "high")}


def loss_of(config: EvaluateConfig) -> dict[str, float]:
    """Return the loss of a language model, in nats per token."""
    subject = Subject("model", config.model_name_or_path, dtype=config.dtype)
    held_out = load_held_out(config, are_pairs=False)
    metrics, _ = loss_metrics(subject, held_out, config.per_device_eval_batch_size)
    subject.unload()
    return {"value": metrics["loss"], "low": metrics["loss_low"], "high": metrics["loss_high"]}


def error_of_reward_model(config: EvaluateConfig) -> dict[str, float]:
    """Return the share of held-out pairs that a reward model ranks wrong."""
    held_out, reward = load_held_out(config, are_pairs=True), load_reward(config.model_name_or_path, dtype=config.dtype)
    metrics, _ = evaluate_pairs(reward, held_out, config.per_device_eval_batch_size)
    value, low, high = (1 - metrics[name] for name in ("accuracy", "accuracy_high", "accuracy_low"))
    return {"value": value, "low": low, "high": high}
