"""Applies a form's encoder to rows: tokenizes them, with a cache, and drops and counts unusable rows."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from hfkit.core.console import warn
from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.data.built_in_templates import BUILT_IN_TOKENS
from hfkit.data.caching import cached_map, map_rows, process_count
from hfkit.data.faults import Fault
from hfkit.data.splits import ALSO_HELD_OUT, SplitStats

IDS = List(Value("int32"))
ID_COLUMNS = ("input_ids", "chosen_ids", "rejected_ids", "reply_ids")
PARTS = "parts"
"""The column with the lengths of the consecutive sequences in a row; empty if the row is one sequence."""
STATS_COLUMNS = {"dropped": Value("string"), "faults": Value("string"), "cut": Value("bool"), "length": Value("int64")}


def encoded_row(
    columns: dict, dropped: str = "", found: Iterable[Fault] = (), cut: bool = False, length: int = 0
) -> dict:
    """Return an encoded row: columns for the trainer, and columns for the statistics.

    Args:
        dropped: why the row is dropped, or "".
        found: the faults of a kept row, see `faults.py`.
        cut: whether its end was cut off.
        length: tokens of its longest sequence before cutting.
    """
    return {**columns, "dropped": dropped, "faults": faults.join_faults(found), "cut": cut, "length": length}


REMOVE_OVERLAP = "Remove the rows with held-out prompts from the training files"


@dataclass(frozen=True)
class Encoder:
    """Encode the rows of one form.

    Args:
        function: row -> `encoded_row`.
        columns: the trainer's columns with their types, which cannot be inferred if all rows are dropped.
    """

    function: Callable[[dict], dict]
    columns: dict

    def __call__(self, rows: Dataset, name: str, num_proc: int | None) -> Dataset:
        """Return all rows, encoded, with the columns of the statistics."""
        return cached_map(
            rows,
            self.function,
            features=Features({**self.columns, **STATS_COLUMNS}),
            remove_columns=rows.column_names,
            num_proc=process_count(num_proc, len(rows)),
            desc=f"Tokenizing {name}",
        )


def encode(rows: Dataset, encoder: Encoder, stats: SplitStats, config) -> Dataset:
    """Return the usable encoded rows, in the order of their mixture, and record dropped and cut rows in `stats`.

    Raises:
        HfkitError: no row is left, or a larger share than `config.max_dropped` was dropped.
    """
    if not len(rows):
        overlap = f" {REMOVE_OVERLAP}." if ALSO_HELD_OUT in stats.dropped else ""
        raise HfkitError(f"{stats}\nNo row is left.{overlap}")
    encoded = encoder(rows, stats.name, config.dataset_num_proc)
    reasons, lengths = encoded.data["dropped"], encoded.data["length"].to_numpy()
    dropped = {one["values"]: one["counts"] for one in pc.value_counts(reasons).to_pylist() if one["values"]}
    stats.dropped |= dropped
    indices = np.flatnonzero(pc.equal(reasons, "").to_numpy())
    tokens, is_cut = count_tokens(encoded), encoded.data["cut"].to_numpy()
    stats.cut, stats.cut_tokens = int(is_cut.sum()), int((lengths - tokens)[is_cut].sum())
    tokens = tokens[indices]
    stats.kept, stats.tokens = len(indices), int(tokens.sum())
    stats.faults = faults.count_faults(encoded.data["faults"].take(indices).to_pylist())
    median, most = (int(np.quantile(lengths, share, method="higher")) if len(lengths) else 0 for share in (0.5, 0.9))
    remedy = f"The median row is {median:,} tokens long, and nine of ten rows have at most {most:,}. "
    remedy += "Fix the rows, raise max_length (max_prompt_length for PPO) if "
    check_losses(stats, config.max_dropped, remedy + "they are too long")
    rows = stats.select(encoded, indices) if dropped else encoded
    if PARTS in rows.column_names:
        counts = count_ids(encoded.data[PARTS])[indices]
        rows = split_parts(rows, counts, stats)
        tokens = count_tokens(rows) if counts.any() else tokens
    rows = stats.mix(rows, tokens).remove_columns(["dropped", "faults", "cut"])
    stats.kept = len(indices)
    return rows


def warn_without_template(rows: Dataset, tokenizer, split: str) -> None:
    """Warn if there is no chat template, so prompts and responses of training rows are joined without a separator."""
    if split == "train" and "prompt" in rows.column_names and not tokenizer.chat_template:
        warn(
            "the tokenizer has no chat template, so nothing separates a response from its prompt: "
            f"set chat_template, a file or one of {', '.join(BUILT_IN_TOKENS)}"
        )


def split_parts(rows: Dataset, counts: np.ndarray, stats: SplitStats) -> Dataset:
    """Return encoded rows without `PARTS`: each sequence becomes a separate row, counted in `stats.split_into`.

    Args:
        counts: (N,) number of parts of each row; 0 for a row that is one sequence.
    """
    if not counts.any():
        return rows.remove_columns(PARTS)
    counts = np.maximum(counts, 1)
    stats.split_into = int(counts.sum())
    stats.follow(np.repeat(np.arange(len(rows)), counts))
    return map_rows(rows, parts_of_rows, batched=True, remove_columns=PARTS)


def parts_of_rows(batch: dict[str, list]) -> dict[str, list]:
    """Return a batch of encoded rows with one row per part in `PARTS`."""
    made: dict[str, list] = {name: [] for name in batch if name != PARTS}
    for index, parts in enumerate(batch[PARTS]):
        start = 0
        for length in parts or [len(batch["input_ids"][index])]:
            for name, column in made.items():
                value = batch[name][index]
                column.append(value[start : start + length] if name in ("input_ids", "labels") else value)
            start += length
            made["length"][-1] = length
    return made


def count_tokens(encoded: Dataset) -> np.ndarray:
    """Return (N,) the tokens of each row after cutting, summed over its sequences."""
    columns = ["input_ids"] if "input_ids" in encoded.column_names else ID_COLUMNS
    return sum(count_ids(encoded.data[name]) for name in columns if name in encoded.column_names)


def count_ids(column: pa.ChunkedArray) -> np.ndarray:
    """Return (N,) the number of ids in each row of a column of lists, or of lists of lists."""
    counts = pc.list_value_length(column).to_numpy()
    if not pa.types.is_list(column.type.value_type):
        return counts
    before = np.concatenate([[0], np.cumsum(count_ids(pc.list_flatten(column)))])
    ends = np.cumsum(counts)
    return before[ends] - before[ends - counts]


def pair_lengths(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tokens of the better and of the worse response of each encoded pair, and the index of its row.

    Returns:
        (P,) integers each. A ranking contributes all of its pairs. The index is the column `ranking`, if any.
    """
    if "reply_ids" not in table.column_names:
        better, worse = (count_ids(table[name]) for name in ("chosen_ids", "rejected_ids"))
        return better, worse, table["ranking"].to_numpy() if "ranking" in table.column_names else np.arange(len(table))
    replies = count_ids(pc.list_flatten(table["reply_ids"]))
    counts = pc.list_value_length(table["reply_ids"]).to_numpy()
    rows = np.repeat(np.arange(len(table)), pc.list_value_length(table["better"]).to_numpy())
    starts = (np.cumsum(counts) - counts)[rows]
    better, worse = (replies[starts + pc.list_flatten(table[name]).to_numpy()] for name in ("better", "worse"))
    return better, worse, rows


def check_losses(stats: SplitStats, max_dropped: float, remedy: str) -> None:
    """Raise HfkitError if no row is left, or a larger share than `max_dropped` was dropped."""
    lost, most = sum(stats.dropped.values()), max_dropped * max(stats.rows, 1)
    shared = stats.dropped.get(ALSO_HELD_OUT, 0)
    if not stats.kept or lost > most:
        if shared and (lost == shared or (stats.kept and lost - shared <= most)):
            remedy = REMOVE_OVERLAP
        why = "No row is left" if not stats.kept else f"{lost:,} of {stats.rows:,} rows are dropped"
        raise HfkitError(f"{stats}\n{why}. {remedy}, or raise max_dropped ({max_dropped}).")


def drop_empty_texts(rows: Dataset, stats: SplitStats) -> Dataset:
    """Return the rows with a non-empty `text`, and record the number of dropped rows in `stats`.

    Raises:
        HfkitError: no row is left.
    """
    is_text = rows.features["text"] in (Value("string"), Value("large_string"))
    lengths = [pc.binary_length(texts) for texts in iter_texts(rows)] if is_text else []
    filled = [np.asarray(pc.fill_null(pc.greater(length, 0), False)) for length in lengths]
    indices = np.flatnonzero(np.concatenate(filled)) if filled else []
    stats.kept = len(indices)
    if len(indices) < len(rows):
        stats.dropped["empty"] = len(rows) - len(indices)
    if not len(indices):
        raise HfkitError(f"{stats}\nNo row has text: fix the rows, or map another column to text.")
    return stats.select(rows, indices) if len(indices) < len(rows) else rows


def iter_texts(rows: Dataset) -> Iterator[pa.Array]:
    """Yield the texts of 5,000 rows at a time as one array; selected rows would be one chunk each."""
    for batch in rows.select_columns("text").with_format("arrow").iter(5_000):
        yield batch["text"].combine_chunks()
