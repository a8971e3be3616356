"""hfkit sample runs/quickstart/sft --prompts prompts.jsonl -k 4

Samples several responses to each prompt, from one model or from several, and writes them as rankings without ranks
(`samples.jsonl`): rows that people rank, or that --reward_model scores, for `hfkit reward`.

With --reward_model and --best, the response with the highest score becomes an instruction (`best.jsonl`), for `hfkit
sft`: rejection sampling. The mean score of the best of n is reported for n = 1, 2, 4, ..., with the bound of its KL.
With --vote, the majority answer of the responses is kept (`votes.jsonl`): self-consistency; where the prompts have
references, its accuracy is reported for n = 1, 4, 16, 64.

The same command resumes interrupted sampling.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from hfkit.config.evaluation import SampleConfig
from hfkit.core.console import say
from hfkit.core.errors import HfkitError
from hfkit.core.explain_errors import explain_errors
from hfkit.core.files import hash_of, read_json_mapping, write_json_lines, write_record
from hfkit.core.locks import lock_folder
from hfkit.core.progress import track_progress
from hfkit.core.tables import interval_text, make_console
from hfkit.evaluation.answers import answer_extractor
from hfkit.evaluation.plots import plot_samples
from hfkit.evaluation.prompts import load_models_and_prompts
from hfkit.evaluation.replies import REPLIES, Sampling, Subject, load_or_sample
from hfkit.evaluation.results_file import ResultsFile
from hfkit.evaluation.sampled_rows import best_rows, rankings_of
from hfkit.metrics.best_of_n import best_of_n_kl, expected_best
from hfkit.metrics.bootstrap import bootstrap_interval
from hfkit.metrics.shares import share_interval
from hfkit.metrics.voting import majority, majority_accuracy
from hfkit.models.precision import dtype_to_evaluate
from hfkit.models.reward_model import load_reward
from hfkit.records.environment import environment
from hfkit.records.record import model_identity, settings_of

SAMPLES, BEST, VOTES, RESULT = "samples.jsonl", "best.jsonl", "votes.jsonl", "sample.json"
SCORES = "scores.jsonl"
VOTE_SIZES = (1, 4, 16, 64)


def sample(config: SampleConfig, keep: bool = False) -> dict:
    """Sample responses, write the rows, and return what `sample.json` holds.

    Args:
        keep: also refuse to replace samples to other prompts.

    Returns:
        counts (prompts, responses, repeated and empty ones, prompts with fewer than two distinct responses), best_of_n
        (rows of n, score, low, high, kl), votes (rows of n, accuracy, low, high), data, settings, inputs_sha256 (of the
        weights and the prompts' token ids), models_sha256 (of the weights of each model), environment.

    Raises:
        HfkitError: there are no prompts, none fits into every model, or the folder has samples of another model, or
            samples that are to be kept.
    """
    config = replace(config, dtype=dtype_to_evaluate(config.dtype))
    folder, size = Path(config.output_dir), config.per_device_eval_batch_size
    with lock_folder(folder, "sampling"), explain_errors(folder, config):
        given = load_models_and_prompts(config, [])
        subjects, rows = given.subjects, given.rows
        inputs = hash_of([[subject.identity for subject in subjects], given.ids])
        models = [hash_of(subject.identity[1:]) for subject in subjects]  # without the dtype
        check_earlier_samples(folder, inputs, models, keep)
        results, sampled = ResultsFile(folder / REPLIES), []
        for subject in subjects:
            sampled += sample_texts(config, subject, given.ids[subject.name], results, size)
            subject.unload()
        texts = [list(own) for own in zip(*sampled, strict=True)]
        scores = score_texts(config, rows, texts, ResultsFile(folder / SCORES)) if config.reward_model else None
        names = [subject.name for subject in subjects for _ in range(config.num_samples)]
        rankings, counts = rankings_of(rows, texts, names, scores)
        write_json_lines(folder / SAMPLES, rankings)
        result = {"counts": counts, "best_of_n": [], "votes": []}
        if scores is not None:
            is_one = len(names) == config.num_samples and len(config.temperatures) < 2
            result["best_of_n"] = best_of_n_curve(scores, is_one)
        if config.best:
            write_json_lines(folder / BEST, best_rows(rows, texts, scores))
        if config.vote is not None:
            votes, result["votes"] = vote(config, rows, texts)
            write_json_lines(folder / VOTES, votes)
        result |= {"data": given.stats.as_dict(), "settings": settings_of(config), "inputs_sha256": inputs}
        result["models_sha256"] = models
        result["environment"] = environment()
        write_record(folder / RESULT, result)
        plot_samples(folder, result)
    return result


def check_earlier_samples(folder: Path, inputs: str, models: list[str], keep: bool) -> None:
    """Check that samples in a folder may be written again, and say so if they are those of other prompts.

    Args:
        inputs, models: `inputs_sha256` and `models_sha256`, see `sample`.
        keep: as for `sample`.

    Raises:
        HfkitError: they are of another model, or to be kept.
    """
    before = read_json_mapping(folder / RESULT) or {}
    is_same = before.get("inputs_sha256", inputs) == inputs
    if keep and not is_same:
        raise HfkitError(
            f"{folder} has responses of a model with other weights, or to other prompts: restore the model and the "
            "prompts, or choose another output_dir"
        )
    if not {*before.get("models_sha256", [])} <= {*models}:
        earlier = ", ".join(before["settings"]["models"])
        raise HfkitError(
            f"{folder} has responses of {earlier}, of which this command would leave out one, or sample with other "
            f"weights: choose another --output_dir, or remove {folder / RESULT} to replace {SAMPLES}"
        )
    if not is_same and before.get("models_sha256") == models:
        say(
            f"{folder / SAMPLES} is written again, for other prompts; a command with the earlier ones restores its "
            f"rows from {REPLIES}"
        )


def sample_texts(
    config: SampleConfig, subject: Subject, prompts: list[list[int]], results: ResultsFile, size: int
) -> list[list[str]]:
    """Return the responses of a model, (num_samples, prompts); the samples take the temperatures in turn."""
    temperatures = config.temperatures or [config.temperature]
    counts = Counter(temperatures[index % len(temperatures)] for index in range(config.num_samples))
    drawn = {}
    for temperature, copies in counts.items():
        sampling = Sampling(config.response_length, temperature, config.seed)
        replies = load_or_sample(subject, prompts, sampling, results, size, copies)
        texts = [reply.text for reply in replies]
        drawn[temperature] = [texts[start : start + len(prompts)] for start in range(0, len(texts), len(prompts))]
    return [
        drawn[temperatures[index % len(temperatures)]][index // len(temperatures)]
        for index in range(config.num_samples)
    ]


def score_texts(config: SampleConfig, rows: list[dict], texts: list[list[str]], saved: ResultsFile) -> np.ndarray:
    """Return the rewards of the responses, float64 (N, K); those of each batch are saved."""
    identity = model_identity(config.reward_model, "main")["weights_sha256"] or config.reward_model
    pairs = [(row, text) for row, own in zip(rows, texts, strict=True) for text in own]
    keys = [hash_of([identity, row["prompt"], text]) for row, text in pairs]
    missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in saved}
    batch_size, todo = 8 * config.per_device_eval_batch_size, list(missing)
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    reward = load_reward(config.reward_model, dtype=config.dtype) if batches else None
    for batch in track_progress(batches, "scores", batch_size, len(todo)):
        given, responses = zip(*(missing[key] for key in batch), strict=True)
        rewards = reward.score_sampled(list(given), list(responses), config.per_device_eval_batch_size).tolist()
        saved.add({key: {"score": score} for key, score in zip(batch, rewards, strict=True)})
    return np.array([saved[key]["score"] for key in keys]).reshape(len(texts), -1)


def best_of_n_curve(scores: np.ndarray, has_kl: bool) -> list[dict]:
    """Return the mean reward of the best of n with its 95% interval over prompts, and the bound of its KL, in nats.

    Args:
        has_kl: whether all samples are of one model at one temperature; the KL is None otherwise.
    """
    curve, count = [], scores.shape[1]
    for n in sorted({*(2**power for power in range(count.bit_length()) if 2**power <= count), count}):
        best = expected_best(scores, n)
        low, high = bootstrap_interval(best)
        curve.append(
            {"n": n, "score": float(best.mean()), "low": low, "high": high, "kl": best_of_n_kl(n) if has_kl else None}
        )
    return curve


def vote(config: SampleConfig, rows: list[dict], texts: list[list[str]]) -> tuple[list[dict], list[dict]]:
    """Return the majority answer to each prompt with its share, and the accuracy of the majority of n samples.

    The right answer is extracted from the reference as from a response; prompts without one are not measured.
    """
    extract = answer_extractor(config.vote)
    answers = [[extract(text) for text in own] for own in texts]
    right = [None if row["reference"] is None else extract(row["reference"]) for row in rows]
    voted = []
    for row, own, reference in zip(rows, answers, right, strict=True):
        answer = majority(own)
        share = own.count(answer) / len(own) if answer is not None else 0.0
        voted.append({"prompt": row["prompt"], "answer": answer, "share": share, "reference": reference})
    known = [index for index, reference in enumerate(right) if reference is not None]
    curve = []
    for n in (size for size in VOTE_SIZES if known and size <= len(texts[0])):
        shares = majority_accuracy([answers[index] for index in known], [right[index] for index in known], n)
        low, high = share_interval(shares, np.ones_like(shares))
        curve.append({"n": n, "accuracy": float(shares.mean()), "low": low, "high": high, "prompts": len(known)})
    return voted, curve


def print_samples(result: dict) -> None:
    """Print the counts and the curves over n."""
    counts, console = result["counts"], make_console(width=110)
    console.print(
        f"{counts['prompts']:,} prompts, {counts['responses']:,} responses; left out: {counts['empty']:,} empty, "
        f"{counts['repeated']:,} repeated, {counts['prompts_without_a_choice']:,} prompts without two different ones",
        highlight=False,
        soft_wrap=True,
    )
    for key, title, column in (("best_of_n", "best of n", "score"), ("votes", "majority of n", "accuracy")):
        if not result[key]:
            continue
        names = ["n", f"{column} (95% interval)", *(["KL, at most (nats)"] if column == "score" else [])]
        table = Table(*(Column(name, justify="right") for name in names), title=title)
        for row in result[key]:
            kl = ["-" if row["kl"] is None else f"{row['kl']:.2f}"] if column == "score" else []
            table.add_row(str(row["n"]), interval_text(row[column], row["low"], row["high"]), *kl)
        console.print(table)


def main(config: SampleConfig) -> int:
    """Run `hfkit sample`."""
    result = sample(config)
    print_samples(result)
    written = [SAMPLES, *([BEST] if config.best else []), *([VOTES] if config.vote else []), RESULT]
    say(f"sample: wrote {', '.join(written)} into {config.output_dir}")
    return 0
