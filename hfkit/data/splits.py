"""The rows of a split: sources joined, some held out, with an account of what was lost."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.console import Console

from hfkit.config.fields import DatasetEntry
from hfkit.core.console import is_main_process, say, warn
from hfkit.core.errors import HfkitError
from hfkit.data.caching import content_hash
from hfkit.data.cards import recipe_of
from hfkit.data.held_out import keys_of, overlaps, overlap_mask, split_off, write_hashes
from hfkit.data.joining import concatenate_sources
from hfkit.data.mixture import Mixture, mixture_table
from hfkit.data.sources import load_counted, load_arguments


@dataclass
class SplitStats:
    """What became of the rows of one split; kept in the run's record.

    Attributes:
        sources: each entry with `rows`, `sha256`, `left_out` (by its card's `keep`, if any), and `taken` once they are
            mixed.
        faults: of rows that are kept all the same, see `faults.py`.
        kept: rows that can be used; `mixed` is how many one pass takes of them, with repetitions, if not all once.
        tokens: of one pass.
        overlap: rows that an earlier stage held out (or trained on, where these are held out), as `held_out.overlaps`.
        mixture: how the rows are drawn from.
        keys: (rows,) hashes of what they ask.
    """

    name: str
    sources: list[dict] = field(default_factory=list)
    rows: int = 0
    kept: int = 0
    cut: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    mixed: int | None = None
    overlap: list[dict] = field(default_factory=list)
    mixture: Mixture | None = field(default=None, repr=False)
    keys: np.ndarray | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.rows:,} rows, {self.kept:,} kept"]
        if self.dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
            parts.append(f"{sum(self.dropped.values()):,} dropped ({reasons})")
        if self.cut:
            parts.append(f"{self.cut:,} cut")
        if self.mixed is not None:
            parts.append(f"{self.mixed:,} in a pass over the mixture")
        parts.append(f"{self.tokens:,} tokens")
        found = ", ".join(f"{count:,} {fault}" for fault, count in self.faults.items())
        said = ", ".join(parts) + (f"; of those kept, {found}" if found else "")
        left_out = [f"{one['left_out']:,} of {source_name(one)}" for one in self.sources if "left_out" in one]
        return said + (f"; left out by keep: {', '.join(left_out)}" if left_out else "")

    def as_dict(self) -> dict:
        """For the record; what was not needed is left out of it."""
        hidden = {"mixture", "keys"} | {name for name in ("mixed", "overlap") if not getattr(self, name)}
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def choose(self, rows: Dataset, places: np.ndarray) -> Dataset:
        """Some of the split's rows, with the account of them kept in step."""
        if self.mixture is not None:
            self.mixture.select(places)
        if self.keys is not None:
            self.keys = self.keys[places]
        return rows.select(places)

    def leave_out(self, rows: Dataset, other: "Split", counted: bool = True) -> Dataset:
        """The rows that ask nothing that those of another split ask.

        Args:
            counted: whether the others are lost rows, or were none of the split's from the beginning.
        """
        again = overlap_mask(self.keys, other.keys)
        if not again.any():
            return rows
        rows = self.choose(rows, np.flatnonzero(~again))
        if counted:
            self.dropped["also held out"] = int(again.sum())
        else:
            self.rows = len(rows)
        return rows

    def capped(self, rows: Dataset) -> Dataset:
        """Of each source as many rows as its entry's `rows` allows, by the seed, where no trainer mixes them."""
        if self.mixture.is_plain:
            return rows
        return self.choose(rows, self.mixture.places(np.ones(len(rows))))

    def mix(self, rows: Dataset, lengths: np.ndarray) -> Dataset:
        """The kept rows in the order and number of one pass over the mixture, with an account of it by source.

        Args:
            lengths: (N,) tokens of each row.
        """
        self.kept, self.tokens = len(rows), int(lengths.sum())
        if self.mixture is None:
            return rows
        places = self.mixture.places(lengths)
        for place, source in enumerate(self.sources):
            if not (self.mixture.source_of == place).any():
                warn(f"{source_name(source)}: none of its rows is left in {self.name}")
        for place, found in self.mixture.unfilled(lengths):
            asked = self.mixture.entries[place].tokens
            warn(
                f"{source_name(self.sources[place])}: all that was taken of the stream is {found:,} tokens, "
                f"of {asked:,} asked for: it has no more, or too few for its text; "
                "rows in place of tokens takes more of it"
            )
        for source, taken in zip(self.sources, self.mixture.realized(places, lengths), strict=True):
            source["taken"] = taken
        if self.mixture.is_plain:
            return rows
        if not len(places):
            raise HfkitError(f"{self}\nThe weights and budgets (rows, tokens, epochs) leave nothing of it: raise them.")
        self.mixed, self.tokens = len(places), int(lengths[places].sum())
        if self.keys is not None:
            self.keys = self.keys[np.unique(places)]  # what is never drawn is not trained on
        return rows.select(places)


def load_splits(
    config, wanted: list[str], needed: list[str] | None = None
) -> tuple[Dataset, Dataset | None, dict[str, SplitStats]]:
    """Training rows, held-out rows (None where the config holds none out) and the account of both.

    What is held out is taken out of the training rows, and counted.

    Args:
        wanted, needed: columns, as for `load_entry`.

    Raises:
        HfkitError: a source cannot be read, the sources of a split have different columns, or nothing is left to train
            on.
    """
    seed = getattr(config, "seed", 0)
    train, account = load_rows("train", config.datasets, wanted, needed, seed)
    test, splits = None, {"train": account}
    size = getattr(config, "test_split_size", None)
    if getattr(config, "eval_datasets", None):
        test, splits["test"] = load_rows("test", config.eval_datasets, wanted, needed, seed)
        test = splits["test"].capped(test)  # only what is held out is taken out of the training rows
        splits["test"].rows = splits["test"].kept = len(test)
        for split, rows in ((account, train), (splits["test"], test)):
            split.keys = keys_of(rows, getattr(config, "dataset_num_proc", None))
        train = account.leave_out(train, splits["test"])
    elif hasattr(config, "test_split_size"):
        account.keys = keys_of(train, getattr(config, "dataset_num_proc", None))
        if size is not None:
            places, held_out = split_off(account.keys, size, config.seed)
            test = train.select(held_out)
            sources = [{"held_out_of": "train"}]
            splits["test"] = SplitStats("test", sources, len(test), len(test), keys=account.keys[held_out])
            train = account.choose(train, places)
            account.rows = len(train)
    for name, overlap in overlaps(config, keys_by_name(splits)):
        splits[name].overlap.append(overlap)
    return train, test, splits


def load_rows(
    name: str, entries: list[DatasetEntry], wanted: list[str], needed: list[str] | None = None, seed: int = 0
) -> tuple[Dataset, SplitStats]:
    """The rows of several sources, one after another, with the account of the split that they make.

    Raises:
        HfkitError: a source cannot be read, or they have different columns.
    """
    tables, left_out = zip(*(load_counted(entry, wanted, needed, seed) for entry in entries), strict=True)
    sources = [
        {
            **describe_entry(entry),
            "rows": len(table),
            "sha256": content_hash(table),
            **({"left_out": lost} if lost else {}),
        }
        for entry, table, lost in zip(entries, tables, left_out, strict=True)
    ]
    rows = concatenate_sources([*tables], [entry.card or entry.path for entry in entries])
    source_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    return rows, SplitStats(name, sources, len(rows), len(rows), mixture=Mixture(entries, source_of, seed))


def source_name(source: dict) -> str:
    """What a source is called where a person reads of it."""
    return source.get("card") or source["path"]


def describe_entry(entry: DatasetEntry) -> dict:
    """An entry for the record, with the path and revision that its card names; a file or folder by its whole path."""
    place = load_arguments(entry, recipe_of(entry)) | {"split": entry.split}
    if Path(place["path"]).exists():
        place["path"] = str(Path(place["path"]).resolve())
    return {name: value for name, value in {**asdict(entry), **place}.items() if value}


def keys_by_name(splits: dict[str, SplitStats]) -> dict[str, np.ndarray]:
    """The hashes of the rows of each split that has them."""
    return {name: split.keys for name, split in splits.items() if split.keys is not None}


def report_splits(run, account: dict[str, SplitStats]) -> None:
    """What became of the data, for the person at the terminal, and what later stages need to know of it."""
    for name, split in account.items():
        say(str(split))
        if split.mixed is not None and is_main_process():
            Console().print(mixture_table(name, split.sources))
        for found in split.overlap:
            part = "held out by" if found["split"] == "test" else "trained on by"
            warn(f"{found['rows']:,} rows of {name} ask what was {part} {found['stage']} ({found['path']})")
    keys = keys_by_name(account)
    if keys and is_main_process():
        write_hashes(run.folder, keys)
