"""Decides which row a labeler gets next."""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import chain, islice

from hfkit.commands.label.labels_file import JUDGEMENT, LabelsFile

HELD_SECONDS = 600.0
"""How long a row that was given out is kept for its labeler."""


class Assignment:
    """The state of who has judged which row, and who has it on the screen.

    A labeler gets rows without a judgement or skip of theirs that lack labelers: those with the fewest first, in an
    order that the seed decides. A row on the screen of enough others is given out last. Each labeler starts at another
    row, so that a restart, which forgets the screens, seldom gives the same row to two of them.

    Args:
        keys: of the rows.
        overlap: how many labelers judge each row.
        clock: seconds; replaceable for tests.
    """

    def __init__(
        self,
        keys: Sequence[str],
        saved: LabelsFile,
        overlap: int,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.keys, self.saved, self.overlap, self.clock = list(keys), saved, overlap, clock
        random.Random(seed).shuffle(self.keys)
        self._judged_by: dict[str, set[str]] = {key: set() for key in keys}
        self._done_by: dict[str, set[str]] = {key: set() for key in keys}  # judged or skipped
        self._held: dict[str, dict[str, float]] = defaultdict(dict)
        for event in saved.counting():
            self.update(event["labeler"], event["row"])

    def update(self, labeler: str, row: str) -> None:
        """Take the judgement of a row into account that counts now; rows that are gone do not matter."""
        if row not in self._judged_by:
            return
        event, judged, done = self.saved.current(labeler, row), self._judged_by[row], self._done_by[row]
        (judged.add if event and event["kind"] == JUDGEMENT else judged.discard)(labeler)
        (done.add if event else done.discard)(labeler)
        self._held[row].pop(labeler, None)

    def next_row(self, labeler: str, skipped: Collection[str] = ()) -> str | None:
        """Return the key of the row to judge next and hold it for the labeler; None if there is none.

        Args:
            skipped: keys of rows that are on the labeler's screen already.
        """
        for key in (skipped := {*skipped}):
            self.hold(key, labeler)
        now, best, best_rank = self.clock(), None, None
        start = random.Random(labeler).randrange(len(self.keys))
        for index, key in enumerate(chain(islice(self.keys, start, None), islice(self.keys, start))):
            count = len(self._judged_by[key])
            if count >= self.overlap or labeler in self._done_by[key] or key in skipped:
                continue
            held = self._held[key] if key in self._held else {}
            others = sum(name != labeler and until > now for name, until in held.items())
            is_own = held.get(labeler, 0.0) > now
            rank = (not is_own, count + others >= self.overlap, count + others, index)
            if best_rank is None or rank < best_rank:
                best, best_rank = key, rank
                if is_own:
                    break
        if best is not None:
            self.hold(best, labeler)
        return best

    def hold(self, row: str, labeler: str) -> None:
        """Record that a row is on a labeler's screen."""
        if row in self._judged_by:
            self._held[row][labeler] = self.clock() + HELD_SECONDS

    def progress(self, labeler: str) -> dict[str, int]:
        """Return how many rows a labeler has done, how many are theirs to do in all, and how many are complete."""
        done = [key for key, names in self._done_by.items() if labeler in names]
        complete = [key for key, names in self._judged_by.items() if len(names) >= self.overlap]
        return {"done": len(done), "total": len({*self.keys} - {*complete} | {*done}), "all_done": len(complete)}

    def is_complete(self) -> bool:
        """Return whether enough labelers have judged or skipped every row."""
        return all(len(names) >= self.overlap for names in self._done_by.values())


def shuffled(count: int, seed: int, labeler: str, row: str) -> list[int]:
    """Return the order in which a labeler sees the responses of a row, as their indices."""
    order = list(range(count))
    random.Random(f"{seed}\n{labeler}\n{row}").shuffle(order)
    return order
