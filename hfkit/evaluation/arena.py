"""hfkit arena runs/quickstart/sft runs/quickstart/ppo --prompts prompts.jsonl --judge human

Which model replies best: replies of each to the same prompts, compared by a judge pair by pair, with win rates and
Bradley-Terry ratings on the scale of Elo, and 95% intervals. Beside them what the judge may be biased by (length, and
the order in which it sees two replies), and the entropy and diversity of each model's replies over temperatures.

Judges: `reward` (a reward model, by its score), `function` (--reward_function package.module:f, as for PPO), `human`
(you, at this terminal, blind and shuffled), or a language model, by path or Hub id, that is asked in both orders. A
reward that a model was trained on does not judge it, unless --allow_training_judge.

Writes arena.json and arena.png into --output_dir. Interrupted, it goes on with the replies and verdicts that it has.
"""

from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hfkit.config.evaluation import JUDGE_KINDS, ArenaConfig, split_name
from hfkit.core.console import say
from hfkit.core.files import write_json
from hfkit.core.locks import explain_errors, lock_folder
from hfkit.data.cards import entries_of
from hfkit.evaluation.bias import bias_lines, bias_of, partiality, wavering
from hfkit.evaluation.diversity import diversity_of
from hfkit.evaluation.judges import Match, Verdict, by_model, by_person, by_score
from hfkit.evaluation.lines import Lines
from hfkit.evaluation.plots import plot_arena
from hfkit.evaluation.prompts import load_prompts, readable_prompts
from hfkit.evaluation.ratings import Battle, pairs_of, rate
from hfkit.evaluation.replies import REPLIES, Sampling, Subject, sample_once
from hfkit.models.reward_model import load_reward
from hfkit.records.environment import environment
from hfkit.records.record import settings_of
from hfkit.rlhf.reward_functions import call_reward_function, import_reward_function, validate_scores

ARENA = "arena.json"
VERDICTS = "verdicts.jsonl"
SAVED_EXAMPLES = 8
"""Prompts whose replies are kept as samples."""


def arena(config: ArenaConfig) -> dict:
    """Runs an arena and returns what `arena.json` holds.

    Returns:
        models (name, path, rating, low, high, wins, ties, losses), pairs (a, b, wins_a, wins_b, ties), judge (kind,
        name, warning), bias, diversity, samples, data, settings, environment.

    Raises:
        HfkitError: no prompts; a judge that a model was trained on; a person who stops.
    """
    folder, size = Path(config.output_dir), config.per_device_eval_batch_size
    partial = partiality(config, judge_name(config))
    with lock_folder(folder, "comparing"), explain_errors(folder, config):
        subjects = [Subject(*split_name(given), dtype=config.dtype) for given in config.models]
        names = [subject.name for subject in subjects]
        rows, account = load_prompts(entries_of(config.prompts), config.max_prompts, config.seed, config.reward_columns)
        rows, prompts = readable_prompts(rows, subjects, config.max_prompt_length, config.response_length, account)
        kept = Lines(folder / REPLIES)
        sampling = Sampling(config.response_length, config.temperature, config.seed)
        replies, diversity = {}, []
        for subject in subjects:
            replies[subject.name] = sample_once(subject, prompts[subject.name], sampling, kept, size)
            diversity += diversity_of(config, subject, prompts[subject.name], kept)
            subject.unload()
        texts = {name: [reply.text for reply in said] for name, said in replies.items()}
        battles, bias = compare_models(load_judge(config, folder), rows, texts)
        warning = "; ".join(filter(None, [partial, wavering(bias)])) or None
        ratings = rate(names, battles, config.resamples, config.seed)
        result = {
            "models": [{**row, "path": subject.path} for row, subject in zip(ratings, subjects, strict=True)],
            "pairs": pairs_of(names, battles),
            "judge": {"kind": judge_kind(config.judge), "name": judge_name(config), "warning": warning},
            "bias": bias,
            "diversity": diversity,
            "samples": [
                {"prompt": row["prompt"], "replies": {name: said[place] for name, said in texts.items()}}
                for place, row in enumerate(rows[:SAVED_EXAMPLES])
            ],
            "data": {"prompts": account.as_dict()},
            "settings": settings_of(config),
            "environment": environment(),
        }
        write_json(folder / ARENA, result)
        plot_arena(folder, result)
    return result


def judge_kind(judge: str) -> str:
    """`reward`, `function`, `human` or `model`."""
    return judge if judge in JUDGE_KINDS else "model"


def judge_name(config: ArenaConfig) -> str:
    """What judges: a path, a Hub id, a function, or `human`."""
    return {"reward": config.reward_model, "function": config.reward_function}.get(config.judge) or config.judge


def load_judge(config: ArenaConfig, folder: Path):
    """The judge of a config, as `judges.Judge`."""
    size = config.per_device_eval_batch_size
    if config.judge == "reward":
        reward = load_reward(config.reward_model, dtype=config.dtype)
        return by_score(lambda prompts, replies, _: reward(prompts, replies, size))
    if config.judge == "function":
        path = config.reward_function
        function = import_reward_function(path)

        def score(prompts: list, replies: list[str], columns: list[dict]):
            given = {name: [row[name] for row in columns] for name in config.reward_columns}
            return validate_scores(path, call_reward_function(path, function, prompts, replies, given), len(replies))

        return by_score(score)
    kept = Lines(folder / VERDICTS)
    if config.judge == "human":
        return by_person(kept, config.seed)
    return by_model(Subject("judge", config.judge, dtype=config.dtype), kept, size)


def compare_models(judge, rows: list[dict], texts: dict[str, list[str]]) -> tuple[list, dict]:
    """Every pair of models at every prompt, and what the judge may be biased by; equal replies are a tie unasked."""
    places = [(place, a, b) for place in range(len(rows)) for a, b in combinations(texts, 2)]
    asked = [(place, a, b) for place, a, b in places if texts[a][place] != texts[b][place]]
    matches = [Match(rows[p]["prompt"], texts[a][p], texts[b][p], rows[p]) for p, a, b in asked]
    verdicts = judge(matches)
    said = dict(zip(asked, verdicts, strict=True))
    battles = [Battle(*where, said.get(where, Verdict(0.5)).result) for where in places]
    return battles, bias_of(matches, verdicts)


def print_arena(result: dict) -> None:
    """Ratings, pairs, bias and diversity on the terminal."""
    console = Console(width=None if Console().is_terminal else 110)
    judge, prompts = result["judge"], result["data"]["prompts"]["kept"]
    table = Table(title=f"{prompts} prompts, judged by {judge['name']}")
    for column in ("", "rating (95% interval)", "wins", "ties", "losses"):
        table.add_column(column, justify="right" if column else "left")
    for row in sorted(result["models"], key=lambda row: -row["rating"]):
        rating = f"{row['rating']:.0f} ({row['low']:.0f} to {row['high']:.0f})"
        table.add_row(row["name"], rating, *(str(row[key]) for key in ("wins", "ties", "losses")))
    console.print(table)
    if judge["warning"]:
        console.print(f"[bold]{judge['warning']}[/bold]", highlight=False)
    for pair in result["pairs"]:
        line = "{a} against {b}: {wins_a} won, {ties} tied, {wins_b} lost".format(**pair)
        console.print(line, highlight=False, markup=False)
    for line in bias_lines(result["bias"]):
        console.print(line, highlight=False, markup=False)
    table = Table(title="replies over temperatures")
    columns = ("entropy", "distinct_1", "distinct_2", "self_bleu", "length")
    for column in ("", "temperature", *columns):
        table.add_column(column, justify="right" if column else "left")
    for row in result["diversity"]:
        table.add_row(row["model"], f"{row['temperature']:g}", *(f"{row[column]:.3f}" for column in columns))
    console.print(table)


def main(config: ArenaConfig) -> int:
    """Run `hfkit arena`."""
    print_arena(arena(config))
    say(f"in {config.output_dir}: {ARENA}, arena.png")
    return 0
