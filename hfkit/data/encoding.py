"""Rows to token ids: a form's encoder over all of them, cached, with an account of what it rejects."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.data.caching import cached_map, process_count
from hfkit.data.files import progress_bars
from hfkit.data.splits import SplitStats

IDS = List(Value("int32"))
# Columns of token ids, of which one row fills one or several.
ID_COLUMNS = ("input_ids", "chosen_ids", "rejected_ids", "reply_ids")
STATS_COLUMNS = {"dropped": Value("string"), "faults": Value("string"), "cut": Value("bool"), "length": Value("int64")}


@dataclass(frozen=True)
class Encoder:
    """What a form makes of a row.

    Args:
        function: row -> columns for the trainer; it also gives `dropped` (a reason, or ""), `faults` (of a row that is
            kept, see `faults.py`), `cut` (bool) and `length` (tokens of its longest sequence before it is cut).
        columns: the trainer's, with their types: rows that are all dropped would not tell.
    """

    function: Callable[[dict], dict]
    columns: dict

    def __call__(self, rows: Dataset, name: str, num_proc: int | None) -> Dataset:
        """All rows, encoded, with the columns of the account."""
        with progress_bars(len(rows)):
            return cached_map(
                rows,
                self.function,
                features=Features({**self.columns, **STATS_COLUMNS}),
                remove_columns=rows.column_names,
                num_proc=process_count(num_proc, len(rows)),
                desc=f"Tokenizing {name}",
            )


def encode(rows: Dataset, encoder: Encoder, account: SplitStats, config) -> Dataset:
    """Applies a form's encoder to each row, drops what it rejects, and accounts for it.

    Raises:
        HfkitError: no row is left, or a larger share than `config.max_dropped` was dropped or cut.
    """
    if not len(rows):
        raise HfkitError(f"{account}\nNothing is left of it.")
    encoded = encoder(rows, account.name, config.dataset_num_proc)
    reasons, lengths = encoded.data["dropped"], encoded.data["length"].to_numpy()
    counted = {one["values"]: one["counts"] for one in pc.value_counts(reasons).to_pylist() if one["values"]}
    account.cut = pc.sum(encoded.data["cut"]).as_py() or 0
    account.dropped |= counted
    places = np.flatnonzero(pc.equal(reasons, "").to_numpy())
    tokens = count_tokens(encoded)[places]
    account.kept, account.tokens = len(places), int(tokens.sum())
    account.faults = faults.count_faults(encoded.data["faults"].take(places).to_pylist())
    median = int(statistics.median(lengths)) if len(lengths) else 0
    remedy = f"The median row is {median} tokens long. Mend the rows, raise max_length (max_prompt_length for PPO) if "
    check_losses(account, config.max_dropped, remedy + "they are too long")
    rows = account.choose(encoded, places) if counted else encoded
    return account.mix(rows, tokens).remove_columns(["dropped", "faults", "cut"])


def count_tokens(encoded: Dataset) -> np.ndarray:
    """(N,) the tokens that are read of each row: those of all its sequences, as far as they are kept."""
    columns = ["input_ids"] if "input_ids" in encoded.column_names else ID_COLUMNS
    return sum(count_ids(encoded.data[name]) for name in columns if name in encoded.column_names)


def count_ids(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) how many ids each row holds, be they a list or a list of lists."""
    counts = pc.list_value_length(column).to_numpy()
    if not pa.types.is_list(column.type.value_type):
        return counts
    before = np.concatenate([[0], np.cumsum(count_ids(pc.list_flatten(column)))])
    ends = np.cumsum(counts)
    return before[ends] - before[ends - counts]


def pair_lengths(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pair of encoded pairs or rankings the tokens of its better and of its worse reply, and its row.

    Returns:
        (P,) integers each; the row is what `ranking` says where that is a column.
    """
    if "reply_ids" not in table.column_names:
        better, worse = (count_ids(table[name]) for name in ("chosen_ids", "rejected_ids"))
        return better, worse, table["ranking"].to_numpy() if "ranking" in table.column_names else np.arange(len(table))
    replies, counts = (
        count_ids(pc.list_flatten(table["reply_ids"])),
        pc.list_value_length(table["reply_ids"]).to_numpy(),
    )
    rows = np.repeat(np.arange(len(table)), pc.list_value_length(table["better"]).to_numpy())
    starts = (np.cumsum(counts) - counts)[rows]
    better, worse = (replies[starts + pc.list_flatten(table[name]).to_numpy()] for name in ("better", "worse"))
    return better, worse, rows


def check_losses(account: SplitStats, max_dropped: float, remedy: str) -> None:
    """Raises an HfkitError where no row is left, or a larger share was dropped or cut than is allowed."""
    lost = sum(account.dropped.values()) + account.cut
    if not account.kept or lost > max_dropped * max(account.rows, 1):
        raise HfkitError(f"{account}\n{remedy}, or allow the loss with max_dropped (now {max_dropped}).")


def drop_empty_texts(rows: Dataset, account: SplitStats) -> Dataset:
    """The rows whose `text` is one; accounts for the others.

    Raises:
        HfkitError: there are none.
    """
    is_text = rows.features["text"] in (Value("string"), Value("large_string"))
    lengths = [pc.binary_length(texts) for texts in iter_texts(rows)] if is_text else []
    filled = [np.asarray(pc.fill_null(pc.greater(length, 0), False)) for length in lengths]
    places = np.flatnonzero(np.concatenate(filled)) if filled else []
    account.kept = len(places)
    if len(places) < len(rows):
        account.dropped["empty"] = len(rows) - len(places)
    if not len(places):
        raise HfkitError(f"{account}\nThere is nothing to learn from: mend the rows, or map another column to text.")
    return account.choose(rows, places) if len(places) < len(rows) else rows


def iter_texts(rows: Dataset) -> Iterator[pa.Array]:
    """The texts of some thousand rows at a time, in one piece: rows that were chosen lie in a piece each."""
    for batch in rows.select_columns("text").with_format("arrow").iter(5_000):
        yield batch["text"].combine_chunks()
