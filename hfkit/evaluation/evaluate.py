"""hfkit evaluate runs/quickstart/ppo --against runs/quickstart/sft

Measures a model on held-out rows, and other models on the same rows.

Language models: loss, perplexity and bits per byte; length, diversity and entropy of its responses, their KL to the
SFT model, their reward by a --reward_model, exact matches if there are references; after DPO, accuracy and margin of
its implicit rewards. Reward models: accuracy, log-loss and calibration on pairs, how they depend on length, and the
rewards of worthless responses.

Writes evaluation.json into the model's folder, and the metrics into its record and card; with --output_dir, into that
folder alone. The same command resumes an interrupted evaluation.
"""

from dataclasses import replace
from pathlib import Path

from rich.table import Column, Table

from hfkit.config.evaluation import EvaluateConfig
from hfkit.core.console import say
from hfkit.core.explain_errors import explain_errors
from hfkit.core.files import RECORD, write_record
from hfkit.core.locks import lock_folder
from hfkit.core.tables import interval_text, make_console
from hfkit.evaluation.language_model import evaluate_language_models
from hfkit.evaluation.replies import REPLIES
from hfkit.evaluation.results_file import ResultsFile
from hfkit.evaluation.reward_model import evaluate_reward_models
from hfkit.hub.cards.model_card import write_card
from hfkit.metrics.reward_probes import print_probes
from hfkit.models.loading import is_classifier
from hfkit.models.precision import dtype_to_evaluate
from hfkit.records.environment import environment
from hfkit.records.record import read_record, record_of, settings_of

EVALUATION = "evaluation.json"
DIGITS = {"bits_per_byte": 4, "loss": 4, "entropy": 4}


def evaluate(config: EvaluateConfig) -> dict:
    """Evaluate a model and return what `evaluation.json` holds.

    Returns:
        model, stage, against, data (statistics of the rows), metrics (NAME, and NAME_low and NAME_high of its 95%
        bootstrap interval), by_model (the metrics of each), samples, or probes of reward models, settings, environment.

    Raises:
        HfkitError: there are no held-out rows, or the rows or a model cannot be read.
    """
    config = replace(config, dtype=dtype_to_evaluate(config.dtype))
    model, revision = config.model_name_or_path, config.model_revision
    folder = Path(config.output_dir or model)
    with lock_folder(folder, "evaluating"), explain_errors(folder, config):
        if is_classifier(model, revision):
            found = evaluate_reward_models(config)
        else:
            found = evaluate_language_models(config, ResultsFile(folder / REPLIES))
        evaluation = {
            "model": model,
            "stage": (record_of(model, revision) or {}).get("stage"),
            "against": config.against,
            "data": found.pop("data"),
            "metrics": next(iter(found["by_model"].values())),
            **found,
            "settings": settings_of(config),
            "environment": environment(),
        }
        write_record(folder / EVALUATION, evaluation)
        if config.output_dir is None:
            update_run(folder, evaluation)
    return evaluation


def update_run(folder: Path, evaluation: dict) -> None:
    """Write an evaluation into the record and the card of a run; a folder without a record is not changed."""
    record = read_record(folder)
    if record is None:
        return
    record["evaluation"] = {key: evaluation[key] for key in ("metrics", "against", "data", "settings")}
    write_card(folder, record)
    write_record(folder / RECORD, record)


def print_evaluation(evaluation: dict) -> None:
    """Print the metrics of all models side by side, and those of the probes."""
    by_model = evaluation["by_model"]
    rows = evaluation["data"]["test"]["kept"]
    prompts = evaluation["data"].get("prompts", {}).get("kept")
    title = f"{rows} held-out rows" + (f", responses to {prompts} prompts" if prompts else "")
    table = Table("", *(Column(name, justify="right") for name in by_model), title=title)
    for name in dict.fromkeys(name for metrics in by_model.values() for name in metrics):
        if not name.endswith(("_low", "_high")):
            table.add_row(name, *(metric_with_interval(metrics, name) for metrics in by_model.values()))
    make_console(width=110).print(table)
    for name, found in evaluation.get("probes", {}).items():
        print_probes(found, f"{name}: rewards of worthless responses")


def metric_with_interval(metrics: dict, name: str) -> str:
    """Return a metric with its interval as text; "" if it was not measured."""
    if name not in metrics:
        return ""
    ends = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    return interval_text(metrics[name], *ends, f".{DIGITS.get(name, 3)}f")


def main(config: EvaluateConfig) -> int:
    """Run `hfkit evaluate`."""
    print_evaluation(evaluate(config))
    say(f"evaluate: results in {Path(config.output_dir or config.model_name_or_path) / EVALUATION}")
    return 0
