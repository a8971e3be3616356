"""Held-out rows: made once by a seed, whole prompts at a time, and never trained on, by this stage or another.

A row is known by the hash of what it asks: the turns before the last reply, its prompt, or its text. So a prompt with
several replies is on one side only, and a prompt of SFT is recognized among the pairs of a reward model.
"""

import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
from datasets import Dataset

from hfkit.core.errors import HfkitError
from hfkit.data.caching import cached_map, process_count
from hfkit.data.conversions import TRANSCRIPT_MARK, prompt_of, parse_transcript
from hfkit.data.files import progress_bars
from hfkit.data.messages import RenderError, as_messages
from hfkit.records.record import record_of
from hfkit.records.source import find_file

HASHES = "row_hashes.npz"


def row_key(row: dict) -> dict:
    """The hash of what a row asks, 8 bytes as a signed integer; 0 where it asks nothing.

    A transcript counts as its turns, so that it is known whether or not a data card makes messages of it.
    """
    asked = prompt_of(row) or row.get("text")
    if isinstance(asked, str) and TRANSCRIPT_MARK.search(asked):
        asked = parse_transcript(asked)
    if not asked:
        return {"key": 0}
    try:
        asked = as_messages(asked)
    except RenderError:
        return {"key": 0}  # no messages: the form's encoder says so
    said = json.dumps([(turn["role"], turn.get("content")) for turn in asked], default=str)
    return {"key": int.from_bytes(blake2b(said.encode(), digest_size=8).digest(), "big", signed=True)}


def keys_of(rows: Dataset, num_proc: int | None = None) -> np.ndarray:
    """(N,) `row_key` of each row."""
    with progress_bars(len(rows)):
        options = {"num_proc": process_count(num_proc, len(rows)), "desc": "Hashing"}
        keyed = cached_map(rows, row_key, remove_columns=rows.column_names, **options)
    return np.array(keyed["key"][:], dtype=np.int64)


def split_off(keys: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows to train on and of those to hold out: all rows of a prompt on one side.

    Args:
        keys: (N,) as `keys_of` gives them.
        size: share (below 1) or number of rows to hold out, reached by whole prompts.

    Raises:
        HfkitError: nothing is left to train on.
    """
    wanted = int(size) if size >= 1 else int(np.ceil(size * len(keys)))
    _, prompts = np.unique(keys, return_inverse=True)
    prompts[keys == 0] = len(keys) + np.flatnonzero(keys == 0)  # rows that ask nothing are each by themselves
    _, prompts, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(counts))
    enough = int(np.searchsorted(np.cumsum(counts[order]), wanted)) + 1
    held_out = np.isin(prompts, order[:enough])
    if held_out.all():
        alike = f" (of {len(counts):,} prompts, which are held out whole)" if len(counts) < len(keys) else ""
        raise HfkitError(f"test_split_size={size:g} leaves nothing to train on of {len(keys):,} rows{alike}")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def overlap_mask(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) whether each row is among the others; rows that ask nothing never are."""
    return np.isin(keys, others) & (keys != 0)


def write_hashes(folder: Path, keys: dict[str, np.ndarray]) -> None:
    """Leaves the hashes of a run's rows in its folder, sorted, 8 bytes a prompt, for the stages after it."""
    temporary = folder / f".{HASHES}.{os.getpid()}.tmp"
    with temporary.open("wb") as stream:
        np.savez(stream, **{name: np.unique(rows[rows != 0]) for name, rows in keys.items()})
    os.replace(temporary, folder / HASHES)


def overlaps(config, keys: dict[str, np.ndarray]) -> Iterator[tuple[str, dict]]:
    """Rows that a stage trains on and an earlier one held out, or the other way round.

    Yields:
        the split of this stage, and `rows` (how many of its rows), `stage`, `path` and `split` of the earlier one.
    """
    for path, revision, stage in ancestors(config):
        for ours, theirs in (("train", "test"), ("ptx", "test"), ("test", "train"), ("test", "ptx")):
            known = read_hashes(path, revision).get(theirs)
            if known is None or ours not in keys:
                continue
            if count := int(overlap_mask(keys[ours], known).sum()):
                yield ours, {"rows": count, "stage": stage, "path": path, "split": theirs}


def ancestors(config) -> Iterator[tuple[str, str, str]]:
    """Path, revision and stage of every run that a stage's models come from, as far as their records are there."""
    models = (("model_name_or_path", "model_revision"), ("reward_model_path", "reward_model_revision"))
    waiting = [(getattr(config, path, None), getattr(config, revision, "main")) for path, revision in models]
    seen = set()
    while waiting:
        path, revision = waiting.pop(0)
        path = str(Path(path).resolve()) if path and Path(path).is_dir() else path
        if not path or (path, revision) in seen:
            continue
        seen.add((path, revision))
        record = none_if_missing(record_of, path, revision) or {}
        if record.get("stage"):
            yield path, revision, record["stage"]
        waiting += [(parent["path"], parent["revision"] or "main") for parent in record.get("lineage", [])]


def read_hashes(path: str, revision: str) -> dict[str, np.ndarray]:
    """The hashes that `write_hashes` left in a run's folder or repository; {} where there are none."""
    file = none_if_missing(find_file, path, HASHES, revision)
    try:
        return dict(np.load(file, allow_pickle=False)) if file else {}
    except (OSError, ValueError):
        return {}


def none_if_missing(find, *args):
    """What `find` finds, or None where the model is no longer there."""
    try:
        return find(*args)
    except HfkitError:
        return None
