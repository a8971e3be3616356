"""Holds out rows by seed, all rows of a prompt together, and finds held-out rows that another stage trains on.

A row is identified by the hash of its prompt: the messages before the last response, its prompt, or its text. So
all responses to a prompt are on one side of the split, and a prompt of SFT is recognized in a reward model's pairs.
"""

import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from datasets import Dataset

from hfkit.config.fields import models_named
from hfkit.core.console import warn
from hfkit.core.errors import HfkitError, reason
from hfkit.core.files import replace_file
from hfkit.core.hub_fetch import is_unknown
from hfkit.core.hub_retry import HubError
from hfkit.data.caching import cached_map, process_count
from hfkit.data.conversions import TRANSCRIPT_MARK, parse_transcript, prompt_of
from hfkit.data.messages import RenderError, as_messages
from hfkit.records.lineage import family_records
from hfkit.records.record import run_of_checkpoint
from hfkit.records.source import find_file

HASHES = "row_hashes.npz"


def row_key(row: dict) -> dict:
    """Return the hash of a row's prompt, 8 bytes as a signed integer; 0 if it has none.

    A transcript is hashed as messages, so the hash does not depend on whether a data card converts it.
    """
    prompt = prompt_of(row) or row.get("text")
    if isinstance(prompt, str) and TRANSCRIPT_MARK.search(prompt):
        prompt = parse_transcript(prompt)
    if not prompt:
        return {"key": 0}
    try:
        messages = as_messages(prompt)
    except RenderError:
        return {"key": 0}  # the form's encoder drops the row
    content = json.dumps([(message["role"], message.get("content")) for message in messages], default=str)
    return {"key": int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "big", signed=True)}


def keys_of(rows: Dataset, num_proc: int | None = None) -> np.ndarray:
    """Return the `row_key` of each row, (N,) int64."""
    options = {"num_proc": process_count(num_proc, len(rows)), "desc": "Hashing"}
    keyed = cached_map(rows, row_key, remove_columns=rows.column_names, **options)
    return np.array(keyed["key"][:], dtype=np.int64)


def split_off(keys: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training rows and of the held-out rows, with all rows of a prompt on one side.

    Args:
        keys: (N,) as `keys_of` returns them.
        size: share (below 1) or number of rows to hold out; whole prompts are added until it is reached.

    Raises:
        HfkitError: no row is left to train on.
    """
    wanted = int(size) if size >= 1 else int(np.ceil(size * len(keys)))
    _, prompts = np.unique(keys, return_inverse=True)
    prompts[keys == 0] = len(keys) + np.flatnonzero(keys == 0)  # each row without a prompt is separate
    _, prompts, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(counts))
    enough = int(np.searchsorted(np.cumsum(counts[order]), wanted)) + 1
    held_out = np.isin(prompts, order[:enough])
    if held_out.all():
        whole = f" ({len(counts):,} prompts, never split)" if len(counts) < len(keys) else ""
        problem = f"test_split_size={size:g} leaves no training row of {len(keys):,} rows{whole}"
        raise HfkitError(f"{problem}: lower it or add prompts")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def overlap_mask(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each row's prompt is among the others, (N,); rows without a prompt never are."""
    return np.isin(keys, others) & (keys != 0)


def write_hashes(folder: Path, keys: dict[str, np.ndarray]) -> None:
    """Write the hashes of a run's rows to its folder, sorted, 8 bytes per prompt, for later stages."""
    with replace_file(folder / HASHES) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **{name: np.unique(rows[rows != 0]) for name, rows in keys.items()})


def overlaps(config, keys: dict[str, np.ndarray]) -> Iterator[tuple[str, dict]]:
    """Find rows that a stage trains on and an earlier one held out, or the reverse.

    Yields:
        the split of this stage, and a dict: `rows` (how many of its rows), `stage`, `path` and `split` of the earlier
        one.
    """
    for path, revision, record in family_records((path, revision) for _, path, revision in models_named(config)):
        hashes = read_hashes(path, revision)
        for ours, theirs in (("train", "test"), ("ptx", "test"), ("test", "train"), ("test", "ptx")):
            known = hashes.get(theirs)
            if known is None or ours not in keys:
                continue
            if count := int(overlap_mask(keys[ours], known).sum()):
                yield ours, {"rows": count, "stage": record.get("stage"), "path": path, "split": theirs}


def read_hashes(path: str, revision: str) -> dict[str, np.ndarray]:
    """Return the hashes that `write_hashes` wrote to a run's folder or repository; {} if there are none.

    Warn if there may be hashes that cannot be read.
    """
    why, remedy = "the Hub cannot be reached", "pull it to check them"
    owner = run_of_checkpoint(path)
    try:
        if file := find_file(str(owner[0]) if owner else path, HASHES, revision):
            return dict(np.load(file, allow_pickle=False))
        if os.path.isdir(path) or not is_unknown(path, HASHES, revision):
            return {}
    except (HubError, OSError, ValueError, BadZipFile) as error:
        why, remedy = f"its {HASHES} cannot be read: {reason(error)}", "restore the file to check them"
    warn(f"{path}: {why}, so rows that it trained on or held out are not compared with those of this run: {remedy}")
    return {}
