"""What a source of rows is worth to a stage: lengths, losses and faults, from its real tokenizer and template."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from hfkit.config.fields import DatasetEntry
from hfkit.config.stages import PPOConfig, RewardConfig, SFTConfig
from hfkit.data import faults
from hfkit.data.caching import cached_map
from hfkit.data.encoding import Encoder, pair_lengths, count_tokens
from hfkit.data.forms import (
    IGNORE,
    INSTRUCTIONS,
    PROMPTS,
    TEXT,
    instruction_encoder,
    prompt_encoder,
    text_encoder,
)
from hfkit.data.held_out import keys_of, overlap_mask
from hfkit.data.mixture import Mixture
from hfkit.data.rankings import COMPARISONS, comparison_encoder
from hfkit.data.sources import load_entry

SPLITS = {"datasets": "train", "eval_datasets": "test", "ptx_datasets": "ptx"}
# By a column of the form.
LOOKED_FOR = {
    "labels": [faults.NO_EOS, faults.TWO_BOS, faults.MASK],
    "chosen_ids": [faults.NO_EOS, faults.TWO_BOS],
    "reply_ids": [faults.NO_EOS, faults.TWO_BOS],
    "prompt": [faults.TWO_BOS],
}


@dataclass
class Survey:
    """One source of one split.

    Attributes:
        unit: what lengths are counted in: tokens, or bytes where there is no tokenizer yet.
        tokens: of the rows that are kept, as far as they are kept; `trained` are those with a share in the loss.
        cut_tokens: cut off the ends of kept rows.
        lengths: (rows,) tokens of each row (of several sequences the longest) before it is cut, dropped ones too where
            that is known.
        limit: most tokens of a row; None where there is none.
        duplicates: rows that are in the source before.
        looked_for: the faults that a row of its form could have.
        longer: share of pairs whose better reply is the longer one; None where there are none.
        keys: (rows,) hashes of what rows ask, as `held_out.keys_of` gives them.
    """

    split: str
    name: str
    unit: str
    rows: int
    kept: int
    dropped: dict[str, int]
    cut: int
    faults: dict[str, int]
    tokens: int
    trained: int
    cut_tokens: int
    lengths: np.ndarray
    limit: int | None
    looked_for: list[str]
    duplicates: int
    longer: float | None
    keys: np.ndarray = field(repr=False)


def surveys_of(config, tokenizer) -> Iterator[Survey]:
    """A survey of each source of a stage, one after another.

    Raises:
        HfkitError: a source cannot be read.
    """
    for key, split in SPLITS.items():
        for entry in getattr(config, key, []):
            unit = "bytes" if tokenizer is None else "tokens"
            yield survey(split, entry, unit, *encoded(config, split, entry, tokenizer))


def encoded(config, split: str, entry: DatasetEntry, tokenizer) -> tuple[Dataset, Dataset, int | None]:
    """The rows of one source as they are read, the same encoded with the columns of the account, and their limit."""
    reads, needed = columns_to_read(config, split)
    rows = load_entry(entry, reads, needed, config.seed)
    encoder, limit = encoder_of(config, split, rows, tokenizer)
    return rows, encoder(rows, entry.card or entry.path, getattr(config, "dataset_num_proc", None)), limit


def columns_to_read(config, split: str) -> tuple[list[str], list[str]]:
    """The columns that a stage reads of a split, and those that it needs beside them."""
    if isinstance(config, SFTConfig) or split == "ptx":
        return INSTRUCTIONS, []
    if isinstance(config, RewardConfig):
        return COMPARISONS, []
    return (PROMPTS, config.reward_columns) if isinstance(config, PPOConfig) else (TEXT, [])


def encoder_of(config, split: str, rows: Dataset, tokenizer) -> tuple[Encoder, int | None]:
    """What a stage makes of these rows, and the most tokens of one."""
    if split == "ptx":
        return instruction_encoder(tokenizer, config.ptx_max_length), config.ptx_max_length
    if isinstance(config, SFTConfig):
        return instruction_encoder(tokenizer, config.max_length), config.max_length
    if isinstance(config, RewardConfig):
        return comparison_encoder(tokenizer, config.max_length, rows, config.score_margin), config.max_length
    if isinstance(config, PPOConfig):
        return prompt_encoder(tokenizer, config.max_prompt_length, rows), config.max_prompt_length
    return text_encoder(tokenizer), None


def survey(split: str, entry: DatasetEntry, unit: str, rows: Dataset, encoded: Dataset, limit: int | None) -> Survey:
    """The figures of one source.

    Args:
        rows: as they are read.
        encoded: the same, with the columns of the account.
        limit: most tokens of a row.
    """
    table = encoded.with_format("arrow")[:]
    lengths = table["length"].to_numpy()
    is_kept = pc.equal(table["dropped"], "").to_numpy()
    is_cut = table["cut"].to_numpy()
    tokens = count_tokens(encoded)
    column = table["labels"] if "labels" in table.column_names else None
    trained = 0 if column is None else pc.sum(pc.not_equal(pc.list_flatten(column), IGNORE)).as_py()
    dropped = {one["values"]: one["counts"] for one in pc.value_counts(table["dropped"]).to_pylist() if one["values"]}
    contents = cached_map(rows, content_key, remove_columns=rows.column_names)["key"][:] if len(rows) else []
    return Survey(
        split=split,
        name=entry.card or entry.path,
        unit=unit,
        rows=len(rows),
        kept=int(is_kept.sum()),
        dropped=dict(sorted(dropped.items(), key=lambda item: -item[1])),
        cut=int(is_cut.sum()),
        faults=faults.count_faults(table["faults"].filter(is_kept).to_pylist()),
        tokens=int(tokens[is_kept].sum()),
        trained=trained or 0,
        cut_tokens=int((lengths - tokens)[is_cut].sum()),
        lengths=lengths,
        limit=limit,
        looked_for=[fault for column, found in LOOKED_FOR.items() if column in table.column_names for fault in found],
        duplicates=len(contents) - len({*contents}),
        longer=longer_share(table),
        keys=keys_of(rows),
    )


def content_key(row: dict) -> dict:
    """The hash of a whole row, as 8 bytes in hexadecimal."""
    said = json.dumps(row, sort_keys=True, default=str)
    return {"key": blake2b(said.encode(), digest_size=8).hexdigest()}


def longer_share(table) -> float | None:
    """The share of pairs whose better reply has more tokens, ties left out; None without pairs of different lengths."""
    if not {"chosen_ids", "reply_ids"} & {*table.column_names}:
        return None
    better, worse, _ = pair_lengths(table)
    differ = better != worse
    return float((better > worse)[differ].mean()) if differ.any() else None


def count_overlap(config, surveys: list[Survey]) -> int:
    """Rows of the training data, those of `ptx_datasets` among them, that ask what a row of `eval_datasets` asks.

    Where these have a budget of rows, they are the ones that training holds out.
    """
    trained = [one.keys for one in surveys if one.split != "test"]
    held_out = [one.keys for one in surveys if one.split == "test"]
    if not trained or not held_out:
        return 0
    source_of = np.repeat(np.arange(len(held_out)), [*map(len, held_out)])
    places = Mixture(config.eval_datasets, source_of, config.seed).places(np.ones(len(source_of)))
    return int(overlap_mask(np.concatenate(trained), np.concatenate(held_out)[places]).sum())
