"""Mixtures: how often each source of a split is drawn from, and what came of it.

A weight is the probability that the next row is of this source: a share of rows, not of tokens. A source's `rows` and
`tokens` are caps, its `epochs` say how often its rows are there to draw from (once, if nothing is said). The first
source that has nothing left ends a pass over a weighted mixture: no row is seen more often than its `epochs` say, and
the shares hold to the end. Without weights all of every source is taken, one after another.
"""

from dataclasses import dataclass

import datasets
import numpy as np
from datasets import Dataset
from rich.table import Table

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError

BUDGETS = ("rows", "tokens", "epochs")


@dataclass
class Mixture:
    """The sources of a split before they are mixed.

    Args:
        entries: as configured.
        source_of: (N,) for each row of the split the place of its entry.
        seed: of the order.
    """

    entries: list[DatasetEntry]
    source_of: np.ndarray
    seed: int

    def select(self, places: np.ndarray) -> None:
        """Follows the split's rows after a selection."""
        self.source_of = self.source_of[places]

    @property
    def is_plain(self) -> bool:
        """Whether all rows are taken as they stand."""
        asked = ("weight", *BUDGETS)
        return all(getattr(entry, name) is None for entry in self.entries for name in asked)

    def places(self, lengths: np.ndarray) -> np.ndarray:
        """The rows in the order of one pass over the mixture.

        Args:
            lengths: (N,) tokens of each row.

        Returns:
            (M,) places of rows, some of them several times, some never.

        Raises:
            HfkitError: a budget leaves nothing of a source.
        """
        if self.is_plain:
            return np.arange(len(self.source_of))
        pools = [self.pool(place, lengths) for place in range(len(self.entries))]
        for place, pool in enumerate(pools):
            self.refuse_nothing(place, pool)
        weights = np.array([entry.weight or 0.0 for entry in self.entries])
        if not weights.any():
            return np.concatenate(pools)
        # A source of which every row was dropped cannot be drawn from.
        weights = [weight if len(pool) else 0.0 for weight, pool in zip(weights, pools, strict=True)]
        if not any(weights):
            return np.arange(0)
        mixed = datasets.interleave_datasets(
            [Dataset.from_dict({"place": pool}) for pool in pools],
            probabilities=[weight / sum(weights) for weight in weights],
            seed=self.seed,
            stopping_strategy="first_exhausted",
        )
        return np.array(mixed["place"][:], dtype=np.int64)

    def pool(self, place: int, lengths: np.ndarray) -> np.ndarray:
        """The rows of one source that there are to draw from: in a seeded order, another in each epoch."""
        entry, own = self.entries[place], np.flatnonzero(self.source_of == place)
        shuffles = np.random.default_rng([self.seed, place])
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

    def refuse_nothing(self, place: int, pool: np.ndarray) -> None:
        """Raises an HfkitError where the budget of a source leaves none of its rows to a mixture that needs them."""
        entry, there = self.entries[place], int((self.source_of == place).sum())
        if there and not len(pool) and entry.weight != 0:
            name, budget = next((name, had) for name in BUDGETS if (had := getattr(entry, name)) is not None)
            raise HfkitError(
                f"{entry.card or entry.path}: {name}: {budget:g} leaves none of its {there:,} rows to draw from: raise "
                "it, or leave the source out"
            )

    def unfilled(self, lengths: np.ndarray) -> list[tuple[int, int]]:
        """Streams whose rows are fewer tokens than their budget, all together: their place, and these tokens."""
        found = [int(lengths[self.source_of == place].sum()) for place in range(len(self.entries))]
        asked = [entry.tokens if entry.streaming else None for entry in self.entries]
        return [(place, had) for place, had in enumerate(found) if asked[place] and had < asked[place]]

    def realized(self, places: np.ndarray, lengths: np.ndarray) -> list[dict]:
        """What one pass takes of each source: rows, tokens, epochs, and its share of the rows."""
        sources = self.source_of[places]
        taken = []
        for place in range(len(self.entries)):
            own = places[sources == place]
            there = int((self.source_of == place).sum())
            taken.append(
                {
                    "rows": len(own),
                    "tokens": int(lengths[own].sum()),
                    "epochs": round(len(own) / there, 3) if there else 0.0,
                    "share": round(len(own) / max(len(places), 1), 4),
                }
            )
        return taken


def mixture_table(name: str, sources: list[dict]):
    """The realized mixture of a split as a table for the terminal, in the manner of LLaMA's (arXiv 2302.13971)."""
    tokens = sum(source["taken"]["tokens"] for source in sources)
    table = Table(title=f"{name}: one pass over the mixture")
    table.add_column("source", overflow="fold")
    for column in ("weight", "rows", "%", "tokens", "%", "epochs"):
        table.add_column(column, justify="right", no_wrap=True)
    for source in sources:
        taken, weight = source["taken"], source.get("weight")
        table.add_row(
            source.get("card") or source["path"],
            "" if weight is None else f"{weight:g}",
            f"{taken['rows']:,}",
            f"{taken['share'] * 100:.1f}",
            f"{taken['tokens']:,}",
            f"{taken['tokens'] / tokens * 100:.1f}" if tokens else "",
            f"{taken['epochs']:.2f}",
        )
    return table
