"""Ranks the responses of all rows without people: by a reward, a function, or a language model."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from hfkit.commands.label.export import dense_ranks
from hfkit.commands.label.labels_file import JUDGEMENT, LabelsFile, now
from hfkit.commands.label.rows import Row
from hfkit.config.labeling import LabelConfig
from hfkit.core.files import hash_of
from hfkit.core.progress import track_progress
from hfkit.evaluation.arena import VERDICTS, judge_name, load_score
from hfkit.evaluation.judges import Judge, Match, Score, model_judge
from hfkit.evaluation.replies import Subject
from hfkit.evaluation.results_file import ResultsFile
from hfkit.models.precision import dtype_to_evaluate
from hfkit.records.record import model_identity

Values = Callable[[list[Row]], list[list[float]]]
"""Returns a value of each response of each row; higher is better."""


def judge_all(config: LabelConfig, rows: list[Row], saved: LabelsFile) -> None:
    """Judge the rows that the judge has not judged yet; rows with fewer than two responses have nothing to rank."""
    config = replace(config, dtype=dtype_to_evaluate(config.dtype))
    name = judge_name(config)
    identity = [name, *judge_identity(config)]
    ids = {row.key: hash_of([*identity, row.key])[:32] for row in rows if len(row.replies) > 1}
    missing = [row for row in rows if row.key in ids and ids[row.key] not in saved.ids]
    size = config.per_device_eval_batch_size
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    if not batches:
        return
    values_of = load_values(config)
    for batch in track_progress(batches, "judgements", size, len(missing)):
        started = time.monotonic()
        found = values_of(batch)
        seconds = round((time.monotonic() - started) / len(batch), 4)
        saved.add([judgement_by(ids[row.key], name, row, own, seconds) for row, own in zip(batch, found, strict=True)])


def judgement_by(identity: str, name: str, row: Row, values: list[float], seconds: float) -> dict:
    """Return the judgement of a row by the values of its responses."""
    event = {"id": identity, "kind": JUDGEMENT, "labeler": name, "row": row.key, "time": now(), "seconds": seconds}
    ranks = dense_ranks([-value for value in values])
    return event | {"ranks": ranks, "all_bad": False, "answer": None, "flags": [[] for _ in ranks], "note": ""}


def judge_identity(config: LabelConfig) -> list:
    """Return what identifies a judge apart from its name: the weights of a model."""
    model = {"reward": config.reward_model, "function": None}.get(config.judge, config.judge)
    return [] if model is None else [model_identity(model, "main")["weights_sha256"]]


def load_values(config: LabelConfig) -> Values:
    """Load the judge of a config."""
    if score := load_score(config):
        return lambda rows: scores_of(rows, score)
    verdicts = ResultsFile(Path(config.output_dir) / VERDICTS)
    subject = Subject("judge", config.judge, dtype=config.dtype)
    judge = model_judge(subject, verdicts, config.per_device_eval_batch_size)
    return lambda rows: wins_of(rows, judge)


def scores_of(rows: list[Row], score: Score) -> list[list[float]]:
    """Return the score of each response of each row."""
    texts = [row.shown_replies() for row in rows]
    pairs = [(row, text) for row, own in zip(rows, texts, strict=True) for text in own]
    columns = [{"prompt": row.prompt, **row.options, **row.columns} for row, _ in pairs]
    found = score([row.prompt for row, _ in pairs], [text for _, text in pairs], columns)
    scores = iter(np.asarray(found, dtype=float).tolist())
    return [[next(scores) for _ in own] for own in texts]


def wins_of(rows: list[Row], judge: Judge) -> list[list[float]]:
    """Return the wins of each response against the others of its row, a tie as half of one (Copeland's method)."""
    values = [[0.0] * len(row.replies) for row in rows]
    texts = [row.shown_replies() for row in rows]
    pairs = [(index, a, b) for index, own in enumerate(texts) for a, b in combinations(range(len(own)), 2)]
    matches = [Match(rows[index].prompt, texts[index][a], texts[index][b], {}) for index, a, b in pairs]
    for (index, a, b), verdict in zip(pairs, judge(matches), strict=True):
        values[index][a] += verdict.result
        values[index][b] += 1 - verdict.result
    return values
