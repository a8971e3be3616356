"""hfkit bench runs/quickstart --tasks arc_easy hellaswag --limit 200

Runs models through tasks of lm-evaluation-harness: its own, or those of YAML files (--tasks FILE.yaml, or names with
--include_path DIR). The folder of a pipeline stands for each of its language models in the order of training, so that
one command shows what every stage gains and costs. Adapters, 4 bits, tokenizers and chat templates load as in training.

Reports every metric with a 95% interval, and the difference between each model and the one before it. Tasks with
code are refused, unless --allow_code is set. Writes bench.json and bench.png into --output_dir. The same command
resumes an interrupted bench.
"""

from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from rich.table import Column, Table

from hfkit.config.evaluation import BenchConfig
from hfkit.core.console import say
from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import explain_errors
from hfkit.core.files import hash_of, write_record
from hfkit.core.locks import lock_folder
from hfkit.core.tables import interval_text, make_console
from hfkit.data.caching import tokenizer_hash
from hfkit.evaluation.bench_metrics import compare_results, results_of_task
from hfkit.evaluation.bench_models import bench_models
from hfkit.evaluation.plots import plot_bench
from hfkit.evaluation.replies import Subject
from hfkit.evaluation.results_file import ResultsFile
from hfkit.models.precision import dtype_to_evaluate
from hfkit.records.environment import environment
from hfkit.records.record import model_identity, record_of, settings_of

BENCH, RESULTS = "bench.json", "bench.jsonl"
RUN_KEYS = ("limit", "num_fewshot", "apply_chat_template", "per_device_eval_batch_size", "seed", "allow_code")
"""The config keys that change results; with others, a saved result is not reused."""


def bench(config: BenchConfig) -> dict:
    """Run a bench and return what `bench.json` holds.

    Returns:
        models (name, path, revision, weights_sha256, stage), results (by model and task: metrics, each with value,
        stderr, low, high and higher_is_better; version, rows, num_fewshot and sha256 of the task), differences (task,
        metric, before, after, difference, low, high, is_paired), lm_eval (its version), seed, settings, environment.

    Raises:
        HfkitError: a task cannot be read, or would execute code; a model cannot be read; or a task fails.
    """
    config = replace(config, dtype=dtype_to_evaluate(config.dtype))
    folder = Path(config.output_dir)
    with lock_folder(folder, "benching"), explain_errors(folder, config):
        harness = import_module("hfkit.evaluation.harness")  # imports lm_eval, which is optional
        tasks = harness.load_tasks(config)
        saved, found, models = ResultsFile(folder / RESULTS), {}, []
        for name, path in bench_models(config.models):
            subject = Subject(name, path, "main", config.dtype, config.chat_template_kwargs, config.system_prompt)
            if config.apply_chat_template and not subject.tokenizer.chat_template:
                raise HfkitError(f"apply_chat_template: {path} has no chat template")
            stage = (record_of(path) or {}).get("stage")
            models.append({"name": name, **model_identity(path), "stage": stage})
            found[name] = bench_model(config, subject, harness, tasks, saved)
        result = {
            "models": models,
            "results": {name: {task: without_values(one) for task, one in of.items()} for name, of in found.items()},
            "differences": [one for pair in pairwise(found) for one in compare_results(*pair, found)],
            "lm_eval": harness.VERSION,
            "seed": config.seed,
            "settings": settings_of(config),
            "environment": environment(),
        }
        write_record(folder / BENCH, result)
        plot_bench(folder, result)
    return result


def bench_model(config: BenchConfig, subject: Subject, harness, tasks: list, saved: ResultsFile) -> dict:
    """Return the results of a model by task: the saved ones; other tasks run and are saved one by one."""
    settings = [subject.identity, tokenizer_hash(subject.tokenizer), config.system_prompt, config.chat_template_kwargs]
    settings.append({key: getattr(config, key) for key in RUN_KEYS})
    model, found = None, {}
    for task in tasks:
        key = hash_of([settings, task.identity, task.name])
        if key not in saved:
            model = model or harness.HarnessModel(subject, config)
            say(f"{subject.name}: {task.name}")
            ran = harness.run_task(model, task, config)
            saved.add({key: {"model": subject.name, "task": task.name, "results": results_of_task(ran, task.identity)}})
        found |= saved[key]["results"]
    model = None  # or two models would be in memory while the next one loads
    subject.unload()
    return found


def without_values(result: dict) -> dict:
    """Return the results of a task without the value of each row."""
    metrics = {
        name: {key: value for key, value in one.items() if key != "values"} for name, one in result["metrics"].items()
    }
    return {**result, "metrics": metrics}


def print_bench(result: dict) -> None:
    """Print the metrics of all models side by side, with 95% intervals, and the differences between models."""
    console = make_console(width=110)
    names = [model["name"] for model in result["models"]]
    title = f"lm-evaluation-harness {result['lm_eval']}: metrics with 95% intervals"
    table = Table("task", "metric", *(Column(name, justify="right") for name in names), title=title)
    first = result["results"][names[0]]
    for task, of_task in first.items():
        for metric in of_task["metrics"]:
            found = [result["results"][name][task]["metrics"].get(metric) for name in names]
            cells = [interval_text(one["value"], one["low"], one["high"]) if one else "" for one in found]
            table.add_row(task, metric, *cells)
    console.print(table)
    if not result["differences"]:
        return
    columns = ("task", "metric", "from", "to", Column("difference", justify="right"), "rows compared")
    table = Table(*columns, title="differences, with 95% intervals")
    for one in result["differences"]:
        difference = interval_text(one["difference"], one["low"], one["high"], "+.3f")
        kind = "pairwise" if one["is_paired"] else "as two samples"
        table.add_row(one["task"], one["metric"], one["before"], one["after"], difference, kind)
    console.print(table)


def main(config: BenchConfig) -> int:
    """Run `hfkit bench`."""
    print_bench(bench(config))
    say(f"bench: results in {config.output_dir} ({BENCH}, bench.png)")
    return 0
