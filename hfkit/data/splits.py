"""Loads the rows of a split: concatenates its sources, holds rows out, and keeps statistics of lost rows."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset

from hfkit.config.fields import DatasetEntry
from hfkit.core.console import is_main_process, say, warn
from hfkit.core.errors import HfkitError
from hfkit.core.tables import make_console
from hfkit.data.caching import content_hash
from hfkit.data.cards import recipe_of
from hfkit.data.concatenation import concatenate_sources
from hfkit.data.faults import Fault
from hfkit.data.given_rows import name_in_messages
from hfkit.data.held_out import keys_of, overlap_mask, overlaps, split_off, write_hashes
from hfkit.data.mixture import Mixture, mixture_table, source_name
from hfkit.data.source_rows import load_arguments
from hfkit.data.sources import read_entry

ALSO_HELD_OUT = "also held out"
"""The reason of training rows that are dropped because their prompts are held out."""

MANY_CUT = 0.1
"""Share of the kept rows that may be cut without a warning."""


@dataclass
class SplitStats:
    """The statistics of one split, stored in the run's record.

    Attributes:
        sources: each entry with `rows`, `sha256`, the keys of `LoadedSource.stats`, and `taken` after mixing.
        rows: number of rows before any is dropped.
        kept: number of usable rows; `mixed` is how many one pass takes of them, with repetitions, if not all once.
        cut: number of kept rows whose end was cut off; `cut_tokens` is how many tokens they lost.
        split_into: number of sequences from the kept rows, if the chat template splits conversations.
        dropped: number of rows by reason.
        faults: number of kept rows with each fault, see `faults.py`.
        tokens: tokens of one pass.
        overlap: rows that an earlier stage held out (or trained on, if these are held out), from `held_out.overlaps`.
        mixture: how the rows are drawn.
        keys: (rows,) hashes of the rows' prompts.
    """

    name: str
    sources: list[dict] = field(default_factory=list)
    rows: int = 0
    kept: int = 0
    cut: int = 0
    cut_tokens: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    faults: dict[Fault, int] = field(default_factory=dict)
    tokens: int = 0
    mixed: int | None = None
    split_into: int | None = None
    overlap: list[dict] = field(default_factory=list)
    mixture: Mixture | None = field(default=None, repr=False)
    keys: np.ndarray | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.rows:,} rows, {self.kept:,} kept"]
        if self.dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
            parts.append(f"{sum(self.dropped.values()):,} dropped ({reasons})")
        if self.cut:
            parts.append(f"{self.cut:,} cut (by {self.cut_tokens:,} tokens)")
        if self.split_into is not None:
            parts.append(f"{self.split_into:,} after the split at responses that the chat template renders differently")
        if self.mixed is not None:
            parts.append(f"{self.mixed:,} in a pass over the mixture")
        if self.tokens or not self.kept:  # the rows of a tokenizer have none yet
            parts.append(f"{self.tokens:,} tokens")
        text = ", ".join(parts)
        if self.faults:
            text += f"; of those kept, {', '.join(f'{count:,} {fault.value}' for fault, count in self.faults.items())}"
        left_out = [f"{one['left_out']:,} of {source_name(one)}" for one in self.sources if "left_out" in one]
        return text + (f"; left out: {', '.join(left_out)}" if left_out else "")

    def as_dict(self) -> dict:
        """Return the statistics for the record, without unused ones."""
        hidden = {"mixture", "keys"} | {name for name in ("mixed", "split_into", "overlap") if not getattr(self, name)}
        described = {"faults": {fault.value: count for fault, count in self.faults.items()}}
        return {name: value for name, value in {**vars(self), **described}.items() if name not in hidden}

    def select(self, rows: Dataset, indices: np.ndarray) -> Dataset:
        """Return some of the split's rows, and update `mixture` and `keys`."""
        self.follow(indices)
        return rows.select(indices)

    def follow(self, indices: np.ndarray) -> None:
        """Update `mixture` and `keys` to the rows at these indices; an index may occur several times."""
        if self.mixture is not None:
            self.mixture.source_of = self.mixture.source_of[indices]
        if self.keys is not None:
            self.keys = self.keys[indices]

    def leave_out(self, rows: Dataset, other: "SplitStats", counted: bool = True) -> Dataset:
        """Return the rows whose prompts are not in another split.

        Args:
            counted: whether the other rows count as dropped; if not, as never in the split.
        """
        mask = overlap_mask(self.keys, other.keys)
        if not mask.any():
            return rows
        rows = self.select(rows, np.flatnonzero(~mask))
        if counted:
            self.dropped[ALSO_HELD_OUT] = int(mask.sum())
        else:
            self.rows = len(rows)
        return rows

    def capped(self, rows: Dataset) -> Dataset:
        """Return at most `rows` rows of each source, as its entry says, chosen by seed, unless a trainer mixes them."""
        if self.mixture.is_plain:
            return rows
        return self.select(rows, self.mixture.indices(np.ones(len(rows))))

    def mix(self, rows: Dataset, lengths: np.ndarray) -> Dataset:
        """Return the kept rows in the order and number of one pass over the mixture, and count them by source.

        Args:
            lengths: (N,) tokens of each row.
        """
        self.kept, self.tokens = len(rows), int(lengths.sum())
        if self.mixture is None:
            return rows
        indices = self.mixture.indices(lengths)
        for index, source in enumerate(self.sources):
            if not (self.mixture.source_of == index).any():
                remedy = "raise its weight or rows, or remove it"
                warn(f"{source_name(source)}: no row of it is left in {self.name}: {remedy}")
        for index, tokens in self.mixture.unfilled(lengths):
            warn(
                f"{source_name(self.sources[index])}: the rows of the stream have {tokens:,} of "
                f"{self.mixture.entries[index].tokens:,} requested tokens. The stream has ended, or its text has few "
                "tokens per byte: to take more, set rows instead of tokens"
            )
        for source, taken in zip(self.sources, self.mixture.realized(indices, lengths), strict=True):
            source["taken"] = taken
        if self.mixture.is_plain:
            return rows
        if not len(indices):
            raise HfkitError(f"{self}\nThe weights and budgets (rows, tokens, epochs) leave no row: raise them.")
        self.mixed, self.tokens = len(indices), int(lengths[indices].sum())
        if self.keys is not None:
            self.keys = self.keys[np.unique(indices)]  # rows that are never drawn are not trained on
        return rows.select(indices)


def load_splits(
    config, wanted: list[str], needed: list[str] | None = None
) -> tuple[Dataset, Dataset | None, dict[str, SplitStats]]:
    """Return training rows, held-out rows (None if the config holds out none) and the statistics of both.

    Held-out rows are removed from the training rows, and counted.

    Args:
        wanted, needed: columns, as for `read_entry`.

    Raises:
        HfkitError: a source cannot be read, the sources of a split have different columns, or no training row is left.
    """
    seed, num_proc = getattr(config, "seed", 0), getattr(config, "dataset_num_proc", None)
    train, train_stats = load_rows("train", config.datasets, wanted, needed, seed)
    test, splits = None, {"train": train_stats}
    if getattr(config, "eval_datasets", None):
        test, test_stats = load_rows("test", config.eval_datasets, wanted, needed, seed)
        splits["test"] = test_stats
        test = test_stats.capped(test)  # remove only held-out rows from the training rows
        test_stats.rows = test_stats.kept = len(test)
        train_stats.keys, test_stats.keys = keys_of(train, num_proc), keys_of(test, num_proc)
        train = train_stats.leave_out(train, test_stats)
    elif hasattr(config, "test_split_size"):
        train_stats.keys = keys_of(train, num_proc)
        if config.test_split_size is not None:
            indices, held_out = split_off(train_stats.keys, config.test_split_size, config.seed)
            test = train.select(held_out)
            sources = [{"held_out_of": "train"}]
            splits["test"] = SplitStats("test", sources, len(test), len(test), keys=train_stats.keys[held_out])
            train = train_stats.select(train, indices)
            train_stats.rows = len(train)
    for name, overlap in overlaps(config, keys_by_name(splits)):
        splits[name].overlap.append(overlap)
    return train, test, splits


def load_rows(
    name: str, entries: list[DatasetEntry], wanted: list[str], needed: list[str] | None = None, seed: int = 0
) -> tuple[Dataset, SplitStats]:
    """Return the concatenated rows of several sources, and the statistics of their split.

    Raises:
        HfkitError: a source cannot be read, or the sources have different columns.
    """
    loaded = [read_entry(entry, wanted, needed, seed) for entry in entries]
    tables = [source.rows for source in loaded]
    sources = [
        {**describe_entry(entry), "rows": len(source.rows), "sha256": content_hash(source.rows), **source.stats()}
        for entry, source in zip(entries, loaded, strict=True)
    ]
    for source in loaded:
        source.report()
    rows = concatenate_sources(tables, [entry.card or name_in_messages(entry.path) for entry in entries])
    source_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    return rows, SplitStats(name, sources, len(rows), len(rows), mixture=Mixture(entries, source_of, seed))


def describe_entry(entry: DatasetEntry) -> dict:
    """Return an entry for the record, with its card's path and revision; the path of a file or folder is absolute."""
    arguments = load_arguments(entry, recipe_of(entry)) | {"split": entry.split}
    if Path(arguments["path"]).exists():
        arguments["path"] = str(Path(arguments["path"]).resolve())
    return {name: value for name, value in {**asdict(entry), **arguments}.items() if value}


def keys_by_name(splits: dict[str, SplitStats]) -> dict[str, np.ndarray]:
    """Return the hashes of the prompts of each split that has them."""
    return {name: stats.keys for name, stats in splits.items() if stats.keys is not None}


def cut_warning(cut: int, kept: int, cut_tokens: int, key: str) -> str:
    """Return the warning about rows whose end is cut off.

    Args:
        cut, kept: number of rows.
        cut_tokens: tokens that were cut off.
        key: the config key of the maximum length.
    """
    return (
        f"{cut:,} of {kept:,} kept rows ({cut / kept:.1%}) are longer than {key} and are cut: the model does not see "
        f"{cut_tokens:,} tokens at their ends. Raise {key} or shorten the rows"
    )


def describe_overlap(name: str, overlap: dict) -> str:
    """Return how many rows of a split have prompts that an earlier stage used otherwise."""
    use = "held out by" if overlap["split"] == "test" else "trained on by"
    return f"{overlap['rows']:,} rows of {name} have prompts that were {use} {overlap['stage']} ({overlap['path']})"


def report_splits(run, splits: dict[str, SplitStats]) -> None:
    """Print statistics of a run's splits, warn once about overlaps, and write hashes of prompts for later stages."""
    for name, stats in splits.items():
        say(str(stats))
        if stats.cut > MANY_CUT * stats.kept:
            key = "ptx_max_length" if name == "ptx" else "max_length"
            warn(f"{name}: {cut_warning(stats.cut, stats.kept, stats.cut_tokens, key)}")
        if stats.mixed is not None and is_main_process():
            make_console().print(mixture_table(name, stats.sources))
    if shared := [describe_overlap(name, overlap) for name, stats in splits.items() for overlap in stats.overlap]:
        remedy = "hold out the same prompts in all stages (eval_datasets, or the same files, seed and test_split_size)"
        warn(f"{', and '.join(shared)}, so held-out metrics may be too good: {remedy}")
    keys = keys_by_name(splits)
    if keys and is_main_process():
        write_hashes(run.folder, keys)
