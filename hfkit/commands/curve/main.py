"""hfkit curve configs/quickstart/sft.yaml --sizes 100 200 400 --output_dir runs/curve

Trains a stage on growing numbers of rows and measures each model on the same held-out rows: the loss of a language
model, the errors of a reward model on pairs (1 - accuracy), with 95% intervals. With `test_split_size`, each seed holds
out other rows. Fits a power law to the errors and reports what twice the rows would bring.

Each run is an ordinary run, in ROWS-seed-SEED of the output folder, and can be used as such. The same command resumes
an interrupted curve, and adds sizes and seeds. Other flags are keys of the stage: `--max_steps 100`.

Writes curve.json and curve.png.
"""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from hfkit.commands.curve.measure import error_name, error_of
from hfkit.commands.curve.plot import plot_curve
from hfkit.config.registry import STAGES
from hfkit.core.console import say
from hfkit.core.errors import ConfigError, Problem
from hfkit.core.files import write_record
from hfkit.core.locks import lock_folder
from hfkit.core.tables import interval_text, make_console
from hfkit.evaluation.results_file import ResultsFile
from hfkit.metrics.power_law import fit_power_law
from hfkit.records.environment import environment
from hfkit.records.record import read_record
from hfkit.stages.entry_points import run_stage
from hfkit.stages.read_configs import read_configs

CURVE, ERRORS = "curve.json", "errors.jsonl"


def main(given: Namespace) -> int:
    """Run `hfkit curve`."""
    [(stage, config)] = one_stage(given).items()
    problems = curve_problems(stage, config, given)
    if problems:
        raise ConfigError(problems)
    folder, points = Path(given.output_dir), []
    with lock_folder(folder, "training"):
        results = ResultsFile(folder / ERRORS)
        for size in sorted(set(given.sizes)):
            for seed in given.seeds:
                run = run_stage(
                    stage,
                    config,
                    datasets=entries_of(config.datasets, size),
                    seed=seed,
                    output_dir=str(folder / f"{size}-seed-{seed}"),
                )
                train = read_record(run)["data"]["train"]
                rows = train.get("mixed") or train["kept"]  # fewer than requested if its sources have no more
                points.append({"rows": rows, "seed": seed, "run": str(run), **error_of(run, stage, results)})
        result = {"stage": stage, "error": error_name(stage), "points": points, "law": fit(points)}
        write_record(folder / CURVE, {**result, "environment": environment()})
        plot_curve(folder, result)
    print_curve(result)
    say(f"curve: results in {folder} ({CURVE}, curve.png)")
    return 0


def one_stage(given: Namespace) -> dict[str, object]:
    """Return the config of the one stage by its name.

    Raises:
        ConfigError: the YAML has problems, or is that of a pipeline of several stages.
    """
    configs = read_configs(given.config, given.stage, None, given.flags)
    if len(configs) > 1:
        raise ConfigError([Problem("config", given.config, "a pipeline of several stages: name the YAML of one")])
    return configs


def curve_problems(stage: str, config, given: Namespace) -> list[Problem]:
    """Return what keeps a stage from having a curve."""
    problems = []
    measured = [name for name, spec in STAGES.items() if spec.trains_a_model and spec.form != "prompts"]
    if stage not in measured:
        remedy = f"it has no held-out error of rows: use one of {', '.join(measured)}"
        return [Problem("stage", stage, remedy)]
    if len(set(given.sizes)) < 2:
        problems.append(Problem("--sizes", given.sizes, "name two or more, such as --sizes 100 200 400"))
    problems += [Problem("--sizes", size, "must be above 0") for size in given.sizes if size < 1]
    if not config.test_split_size and not config.eval_datasets:
        problems.append(Problem("test_split_size", None, "missing: the error is that of held-out rows"))
    limited = [entry for entry in config.datasets if entry.rows or entry.tokens]
    if limited:
        remedy = "--sizes sets the number of rows: remove rows and tokens from the datasets"
        problems.append(Problem("datasets", limited[0].path or limited[0].card, remedy))
    return problems


def entries_of(entries: list, size: int) -> list:
    """Return the sources of a config with `size` rows in total, divided by their weights, or evenly."""
    weights = np.array([1.0 if entry.weight is None else entry.weight for entry in entries])
    ends = np.round(np.cumsum(weights / weights.sum()) * size).astype(int)
    counts = np.diff(ends, prepend=0)
    return [replace(entry, rows=int(count)) for entry, count in zip(entries, counts, strict=True) if count]


def fit(points: list[dict]) -> dict | None:
    """Return the law of the points, with its errors at the most rows and at twice as many; None if there is none."""
    rows, errors = [point["rows"] for point in points], [point["value"] for point in points]
    if len(set(rows)) < 2 or min(errors) <= 0:
        return None
    law, most = fit_power_law(rows, errors), max(rows)
    found = {"floor": law.floor, "factor": law.factor, "exponent": law.exponent}
    return {**found, "rows": most, "error": float(law(most)), "error_of_twice": float(law(2 * most))}


def print_curve(result: dict) -> None:
    """Print the error of each run, and what twice the rows would bring."""
    console, name = make_console(width=110), result["error"]
    columns = [Column(title, justify="right") for title in ("rows", "seed", f"{name} (95% interval)")]
    table = Table(*columns, title=f"{result['stage']}: held-out {name}")
    for point in result["points"]:
        error = interval_text(point["value"], point["low"], point["high"], ".4f")
        table.add_row(f"{point['rows']:,}", str(point["seed"]), error)
    console.print(table)
    law = result["law"]
    if law is None:
        console.print("No power law fits: an error is 0, or all runs trained on the same number of rows.")
        return
    console.print(
        f"{name} = {law['floor']:.4g} + {law['factor']:.4g} * rows^-{law['exponent']:.3f}. With {2 * law['rows']:,} "
        f"rows instead of {law['rows']:,}, the law expects {law['error_of_twice']:.4f} after {law['error']:.4f}.",
        highlight=False,
        soft_wrap=True,
    )
