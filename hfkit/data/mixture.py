"""Mixes the sources of a split by weight and budget, and reports what one pass takes of each.

A weight is the probability that the next row comes from this source: a share of rows, not of tokens. A source's
`rows` and `tokens` are maximums, and `epochs` is how often its rows can be drawn (default: once). A pass over a
weighted mixture ends when the first source runs out, so no row is drawn more often than its `epochs`, and the shares
hold to the end. Without weights, sources are concatenated.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset
from rich.table import Column, Table

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.given_rows import name_in_messages

BUDGETS = ("rows", "tokens", "epochs")


@dataclass
class Mixture:
    """The sources of a split, and the source of each of its rows.

    Args:
        entries: as configured.
        source_of: (N,) index of the entry that each row of the split comes from.
        seed: random seed of the order.
    """

    entries: list[DatasetEntry]
    source_of: np.ndarray
    seed: int

    @property
    def is_plain(self) -> bool:
        """Whether there are no weights and no budgets, so all rows are taken in order."""
        return all(getattr(entry, name) is None for entry in self.entries for name in ("weight", *BUDGETS))

    def indices(self, lengths: np.ndarray) -> np.ndarray:
        """Return the rows in the order of one pass over the mixture.

        Args:
            lengths: (N,) tokens of each row.

        Returns:
            (M,) indices of rows; some may occur several times, some never.

        Raises:
            HfkitError: a budget leaves no row of a source.
        """
        if self.is_plain:
            return np.arange(len(self.source_of))
        pools = [self.pool(index, lengths) for index in range(len(self.entries))]
        for index, (entry, pool) in enumerate(zip(self.entries, pools, strict=True)):
            rows = int((self.source_of == index).sum())
            if rows and not len(pool) and entry.weight != 0:
                name, budget = next((name, value) for name in BUDGETS if (value := getattr(entry, name)) is not None)
                source = entry.card or name_in_messages(entry.path)
                raise HfkitError(
                    f"{source}: {name}: {budget:g} leaves none of its {rows:,} rows: raise it, or remove the source"
                )
        weights = np.array([entry.weight or 0.0 for entry in self.entries])
        if not weights.any():
            return np.concatenate(pools)
        # A source whose rows were all dropped cannot be drawn from.
        weights = [weight if len(pool) else 0.0 for weight, pool in zip(weights, pools, strict=True)]
        if not any(weights):
            return np.arange(0)
        mixed = datasets.interleave_datasets(
            [Dataset.from_dict({"index": pool}) for pool in pools],
            probabilities=[weight / sum(weights) for weight in weights],
            seed=self.seed,
            stopping_strategy="first_exhausted",
        )
        return np.array(mixed["index"][:], dtype=np.int64)

    def pool(self, index: int, lengths: np.ndarray) -> np.ndarray:
        """Return the rows of one source that can be drawn, in a seeded order that differs in each epoch."""
        entry, own = self.entries[index], np.flatnonzero(self.source_of == index)
        shuffles = np.random.default_rng([self.seed, index])
        if entry.epochs is not None:
            count = round(entry.epochs * len(own))
            rounds = [shuffles.permutation(own) for _ in range(-(-count // max(len(own), 1)))]
            return np.concatenate([own[:0], *rounds])[:count]
        pool = shuffles.permutation(own)
        if entry.rows is not None:
            return pool[: entry.rows]
        if entry.tokens is not None:
            return pool[: np.searchsorted(np.cumsum(lengths[pool]), entry.tokens, side="right")]
        return pool

    def unfilled(self, lengths: np.ndarray) -> list[tuple[int, int]]:
        """Return the index and tokens of each stream whose rows have fewer tokens than its budget."""
        tokens = [int(lengths[self.source_of == index].sum()) for index in range(len(self.entries))]
        budgets = [entry.tokens if entry.streaming else None for entry in self.entries]
        return [(index, count) for index, count in enumerate(tokens) if budgets[index] and count < budgets[index]]

    def realized(self, indices: np.ndarray, lengths: np.ndarray) -> list[dict]:
        """Return what one pass takes of each source: rows, tokens, epochs, and share of the rows."""
        sources = self.source_of[indices]
        taken = []
        for index in range(len(self.entries)):
            own = indices[sources == index]
            rows = int((self.source_of == index).sum())
            taken.append(
                {
                    "rows": len(own),
                    "tokens": int(lengths[own].sum()),
                    "epochs": round(len(own) / rows, 3) if rows else 0.0,
                    "share": round(len(own) / max(len(indices), 1), 4),
                }
            )
        return taken


def source_name(source: dict) -> str:
    """Return the name of a recorded source for messages; a path in the current folder is relative to it."""
    path = source.get("card") or name_in_messages(source["path"])
    return os.path.relpath(path) if Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd()) else path


def mixture_table(name: str, sources: list[dict]):
    """Return the realized mixture of a split as a table for the terminal, as in Table 1 of LLaMA (arXiv 2302.13971)."""
    tokens = sum(source["taken"]["tokens"] for source in sources)
    table = Table(Column("source", overflow="fold"), title=f"{name}: one pass over the mixture")
    for column in ("weight", "rows", "%", "tokens", "%", "epochs"):
        table.add_column(column, justify="right", no_wrap=True)
    for source in sources:
        taken, weight = source["taken"], source.get("weight")
        table.add_row(
            source_name(source),
            "" if weight is None else f"{weight:g}",
            f"{taken['rows']:,}",
            f"{taken['share'] * 100:.1f}",
            f"{taken['tokens']:,}",
            f"{taken['tokens'] / tokens * 100:.1f}" if tokens else "",
            f"{taken['epochs']:.2f}",
        )
    return table
