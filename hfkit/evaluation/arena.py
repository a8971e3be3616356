"""hfkit arena runs/quickstart/sft runs/quickstart/ppo --prompts prompts.jsonl --judge human

Finds which model responds best: a judge compares their responses to the same prompts, pair by pair. Reports win rates
and Bradley-Terry ratings on the Elo scale with 95% intervals; possible biases of the judge (length, and the order in
which it sees two responses); and the entropy and diversity of each model's responses at several temperatures.

Judges: `reward` (a reward model, by its score), `function` (--reward_function package.module:f, as for PPO), `human`
(you, at this terminal, blind and shuffled), or a language model, by path or Hub id, which sees both orders. A reward
that a model was trained on is rejected as its judge, unless --allow_training_judge is set.

Writes arena.json and arena.png into --output_dir. The same command resumes an interrupted arena.
"""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from hfkit.config.evaluation import JUDGE_KINDS, ArenaConfig
from hfkit.config.labeling import LabelConfig
from hfkit.core.console import say
from hfkit.core.explain_errors import explain_errors
from hfkit.core.files import write_record
from hfkit.core.locks import lock_folder
from hfkit.core.tables import interval_text, make_console
from hfkit.evaluation.diversity import diversity_by_temperature
from hfkit.evaluation.judge_bias import bias_lines, inconsistency_warning, judge_bias, training_judge_warning
from hfkit.evaluation.judges import Judge, Match, Score, Verdict, human_judge, model_judge, score_judge
from hfkit.evaluation.plots import plot_arena
from hfkit.evaluation.prompts import SharedPrompts, load_models_and_prompts
from hfkit.evaluation.ratings import Battle, pair_results, rate_models
from hfkit.evaluation.replies import REPLIES, Sampling, Subject, load_or_sample
from hfkit.evaluation.results_file import ResultsFile
from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.models.precision import dtype_to_evaluate
from hfkit.models.reward_model import load_reward
from hfkit.records.environment import environment
from hfkit.records.record import settings_of
from hfkit.rlhf.reward_functions import call_reward_function, import_reward_function

ARENA = "arena.json"
VERDICTS = "verdicts.jsonl"
SAVED_EXAMPLES = 8
"""Prompts whose responses are saved as samples."""


def arena(config: ArenaConfig, given: SharedPrompts | None = None) -> dict:
    """Run an arena and return what `arena.json` holds.

    Args:
        given: its models and prompts, if they are loaded already.

    Returns:
        models (name, path, rating, low, high, wins, ties, losses; and of a judge that scores responses one by one:
        score, score_low, score_high), pairs (a, b, wins_a, wins_b, ties), judge (kind, name, warning), bias, diversity,
        samples, data, settings, environment.

    Raises:
        HfkitError: there are no prompts; a model was trained on the judge; the human judge stops.
    """
    config = replace(config, dtype=dtype_to_evaluate(config.dtype))
    folder, size = Path(config.output_dir), config.per_device_eval_batch_size
    warning = training_judge_warning(config, judge_name(config))
    with lock_folder(folder, "comparing"), explain_errors(folder, config):
        given = given or load_models_and_prompts(config, config.reward_columns)
        subjects, rows, prompts = given.subjects, given.rows, given.ids
        names = [subject.name for subject in subjects]
        results = ResultsFile(folder / REPLIES)
        sampling = Sampling(config.response_length, config.temperature, config.seed)
        replies, diversity = {}, []
        for subject in subjects:
            replies[subject.name] = load_or_sample(subject, prompts[subject.name], sampling, results, size)
            diversity += diversity_by_temperature(config, subject, prompts[subject.name], results)
            subject.unload()
        texts = {name: [reply.text for reply in sampled] for name, sampled in replies.items()}
        score = load_score(config)
        battles, bias = compare_models(score_judge(score) if score else load_judge(config, folder), rows, texts)
        scores = {name: mean_score(score, rows, own) if score else {} for name, own in texts.items()}
        warning = "; ".join(filter(None, [warning, inconsistency_warning(bias)])) or None
        kind = config.judge if config.judge in JUDGE_KINDS else "model"
        ratings = rate_models(names, battles, config.resamples, config.seed)
        result = {
            "models": [
                {**row, "path": subject.path, **scores[subject.name]}
                for row, subject in zip(ratings, subjects, strict=True)
            ],
            "pairs": pair_results(names, battles),
            "judge": {"kind": kind, "name": judge_name(config), "warning": warning},
            "bias": bias,
            "diversity": diversity,
            "samples": [
                {"prompt": row["prompt"], "replies": {name: written[index] for name, written in texts.items()}}
                for index, row in enumerate(rows[:SAVED_EXAMPLES])
            ],
            "data": {"prompts": given.stats.as_dict()},
            "settings": settings_of(config),
            "environment": environment(),
        }
        write_record(folder / ARENA, result)
        plot_arena(folder, result)
    return result


def judge_name(config: ArenaConfig | LabelConfig) -> str:
    """Return the name of the judge: a path, a Hub id, a function, or `human`."""
    return {"reward": config.reward_model, "function": config.reward_function}.get(config.judge) or config.judge


def load_judge(config: ArenaConfig, folder: Path) -> Judge:
    """Load a judge that compares responses: a language model or a person; its verdicts are kept in `folder`."""
    results = ResultsFile(folder / VERDICTS)
    if config.judge == "human":
        return human_judge(results, config.seed)
    return model_judge(Subject("judge", config.judge, dtype=config.dtype), results, config.per_device_eval_batch_size)


def load_score(config: ArenaConfig | LabelConfig) -> Score | None:
    """Load the judge of a config if it scores responses one by one: a reward model or a function; else return None."""
    if config.judge == "reward":
        size = config.per_device_eval_batch_size
        reward = load_reward(config.reward_model, dtype=config.dtype)
        return lambda _, replies, rows: reward.score_sampled(rows, replies, size)
    if config.judge != "function":
        return None
    path, function = config.reward_function, import_reward_function(config.reward_function)

    def score(prompts: list, replies: list[str], columns: list[dict]):
        given = {name: [row[name] for row in columns] for name in config.reward_columns}
        return call_reward_function(path, function, prompts, replies, given)

    return score


def mean_score(score: Score, rows: list[dict], texts: list[str]) -> dict[str, float]:
    """Return the mean score of a model's responses, with its 95% interval over prompts."""
    values = np.asarray(score([row["prompt"] for row in rows], texts, rows), dtype=float)
    low, high = bootstrap_interval(values)
    return {"score": float(values.mean()), "score_low": low, "score_high": high}


def compare_models(judge: Judge, rows: list[dict], texts: dict[str, list[str]]) -> tuple[list[Battle], dict]:
    """Compare the responses of every pair of models to every prompt, and return the battles and the judge's biases.

    Equal responses are a tie and not shown to the judge.
    """
    pairs = [(index, a, b) for index in range(len(rows)) for a, b in combinations(texts, 2)]
    different = [(index, a, b) for index, a, b in pairs if texts[a][index] != texts[b][index]]
    matches = [Match(rows[i]["prompt"], texts[a][i], texts[b][i], rows[i]) for i, a, b in different]
    verdicts = judge(matches)
    by_pair = dict(zip(different, verdicts, strict=True))
    battles = [Battle(*pair, by_pair.get(pair, Verdict(0.5)).result) for pair in pairs]
    return battles, judge_bias(matches, verdicts)


def print_arena(result: dict) -> None:
    """Print ratings, pairs, biases of the judge, and diversity."""
    console = make_console(width=110)
    judge, prompts = result["judge"], result["data"]["prompts"]["kept"]
    numbers = [Column(name, justify="right") for name in ("rating (95% interval)", "wins", "ties", "losses")]
    table = Table("", *numbers, title=f"{prompts} prompts, judged by {judge['name']}")
    for row in sorted(result["models"], key=lambda row: -row["rating"]):
        rating = interval_text(row["rating"], row["low"], row["high"], ".0f")
        table.add_row(row["name"], rating, *(str(row[key]) for key in ("wins", "ties", "losses")))
    console.print(table)
    if judge["warning"]:
        console.print(judge["warning"], style="bold", highlight=False)
    lines = ["{a} against {b}: {wins_a} won, {ties} tied, {wins_b} lost".format(**pair) for pair in result["pairs"]]
    for line in [*lines, *bias_lines(result["bias"])]:
        console.print(line, highlight=False)
    columns = ("entropy", "distinct_1", "distinct_2", "self_bleu", "length")
    numbers = [Column(name, justify="right") for name in ("temperature", *columns)]
    table = Table("", *numbers, title="responses over temperatures")
    for row in result["diversity"]:
        table.add_row(row["model"], f"{row['temperature']:g}", *(f"{row[column]:.3f}" for column in columns))
    console.print(table)


def main(config: ArenaConfig) -> int:
    """Run `hfkit arena`."""
    print_arena(arena(config))
    say(f"arena: results in {config.output_dir} ({ARENA}, arena.png)")
    return 0
