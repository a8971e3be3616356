"""What the rounds brought: `rounds.json`, `rounds.png`, and the table on the terminal."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from rich.table import Table

from hfkit.commands.report.rounds import ROUNDS, measure_of, rows_of
from hfkit.commands.rounds.plan import RoundsPlan
from hfkit.config.evaluation import ArenaConfig, EvaluateConfig
from hfkit.config.registry import spec_of
from hfkit.core.console import say
from hfkit.core.files import hash_of, write_record
from hfkit.core.tables import make_console
from hfkit.evaluation.arena import arena
from hfkit.evaluation.language_model import kl_metrics
from hfkit.evaluation.prompts import SharedPrompts, load_models_and_prompts
from hfkit.evaluation.replies import REPLIES, Sampling, load_or_sample
from hfkit.evaluation.results_file import ResultsFile
from hfkit.models.precision import dtype_to_evaluate
from hfkit.records.environment import environment
from hfkit.records.record import read_record
from hfkit.training.plots import draw_png

ROUNDS_PLOT, KLS = "rounds.png", "kl.jsonl"


def write_rounds(plan: RoundsPlan, rounds: list[dict]) -> dict:
    """Evaluate the policies so far, write `rounds.json` and `rounds.png`, and return what the former holds.

    Returns:
        rounds: the first policy, then each round (round, name, policy, reward_model, labels, counts, reward_accuracy on
        held-out labels; with an evaluation also score, score_low, score_high, rating, low, high; kl, kl_low, kl_high to
        the first policy in nats per response; win_rate against the policy before); judge; environment.
    """
    stage = spec_of((read_record(plan.start) or {}).get("stage"))
    found = [{"round": 0, "name": stage.title if stage else "start", "policy": plan.start}]
    for one in rounds:
        metrics = (read_record(one["reward_model"]) or {}).get("metrics", {})
        accuracy = {key.removeprefix("eval_"): value for key, value in metrics.items() if "eval_accuracy" in key}
        found.append({"name": f"round {one['round']}", **one, "reward_accuracy": accuracy.get("accuracy")})
    judge = None
    if plan.evaluate:
        models = [f"{one['name']}={one['policy']}" for one in found]
        changes = {"output_dir": str(plan.root / "arena"), "dtype": dtype_to_evaluate(plan.evaluate.dtype)}
        config = replace(plan.evaluate, models=models, **changes)
        given = load_models_and_prompts(config, config.reward_columns)
        measured = arena(config, given)
        judge, kls = measured["judge"], kls_to_first(config, given)
        rated = {model["name"]: model for model in measured["models"]}
        keys = ("score", "score_low", "score_high", "rating", "low", "high")
        for one in found:
            one |= {key: rated[one["name"]][key] for key in keys if key in rated[one["name"]]} | kls.get(
                one["name"], {}
            )
        pairs = {(pair["a"], pair["b"]): pair for pair in measured["pairs"]}
        for last, one in pairwise(found):
            pair = pairs[last["name"], one["name"]]
            shares = (pair["wins_a"], pair["ties"], pair["wins_b"])
            one["win_rate"] = (pair["wins_b"] + pair["ties"] / 2) / sum(shares)
    result = {"rounds": found, "judge": judge, "environment": environment()}
    write_record(plan.root / ROUNDS, result)
    plot_rounds(plan.root, result)
    return result


def kls_to_first(config: ArenaConfig, given: SharedPrompts) -> dict[str, dict[str, float]]:
    """Return the KL of each model of an arena to the first one, on the arena's responses; {} if these are greedy."""
    folder, size = Path(config.output_dir), config.per_device_eval_batch_size
    sampling = Sampling(config.response_length, config.temperature, config.seed)
    replies, saved = ResultsFile(folder / REPLIES), ResultsFile(folder / KLS)
    first, *others = given.subjects
    found = {}
    for subject in others:
        ids = given.ids[subject.name]
        key = hash_of([first.identity, subject.identity, vars(sampling), ids])
        if key not in saved:
            sampled = load_or_sample(subject, ids, sampling, replies, size)
            options = {"model_name_or_path": subject.path, "reference": first.path, "dtype": config.dtype}
            settings = EvaluateConfig(**options, temperature=config.temperature)
            saved.add({key: kl_metrics(settings, subject, ids, sampled)})
        found[subject.name] = {name: saved[key][name] for name in ("kl", "kl_low", "kl_high") if name in saved[key]}
    return found


def plot_rounds(folder: Path, result: dict) -> None:
    """Draw `rounds.png`: what the judge measured after each round, with 95% intervals; nothing without a judge."""
    measure = measure_of(result)
    if measure is None:
        return
    key, *ends, title = measure

    def draw(axes) -> None:
        rounds = result["rounds"]
        spans = [[abs(one[key] - one[end]) for one in rounds] for end in ends]
        axes.errorbar(range(len(rounds)), [one[key] for one in rounds], yerr=spans, fmt="o-", capsize=3)
        axes.set_xticks(range(len(rounds)), [one["name"] for one in rounds])
        axes.set(title="Rounds", ylabel=f"{title}, with 95% interval")

    draw_png(folder / ROUNDS_PLOT, 1, draw)


def print_rounds(result: dict, folder: Path) -> None:
    """Print a column for each policy."""
    table = Table("", *(one["name"] for one in result["rounds"]), title="Rounds")
    for name, cells in rows_of(result).items():
        table.add_row(name, *cells)
    make_console(width=110).print(table)
    if result["judge"] is None:
        say("rounds: no scores, because the YAML has no rounds.evaluate")
    say(f"rounds: results in {folder / ROUNDS}")
