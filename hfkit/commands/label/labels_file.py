"""Keeps the judgements: one JSON object a line, written through to the disk before anyone learns that it is saved."""

import threading
from datetime import datetime, timezone
from pathlib import Path

from hfkit.core.errors import HfkitError, reason
from hfkit.core.json_lines import append_lines, read_appended

JUDGEMENT, SKIP, UNDO = "judgement", "skip", "undo"
KINDS = (JUDGEMENT, SKIP, UNDO)


class LabelsFile:
    """A file of events, which only grows; a last line that a killed process cut off is dropped.

    Args:
        path: of the file; its folder exists.

    Attributes:
        events: in the order of the file.
        ids: the events by id.

    Raises:
        HfkitError: the file is not a file of judgements.
    """

    def __init__(self, path: Path):
        self.path, self.events, self.ids = path, [], {}
        self._lock = threading.Lock()
        self._stacks: dict[tuple[str, str], list[dict]] = {}
        self._histories: dict[str, list[dict]] = {}
        try:
            for event in read_appended(path):
                self._take(event)
        except (ValueError, TypeError, KeyError) as error:
            fault = f"line {len(self.events) + 1} is not a judgement ({reason(error)})"
            raise HfkitError(f"{path}: {fault}: repair it, or choose another --output_dir") from error

    def _take(self, event: dict) -> None:
        """Take an event into account.

        Raises:
            ValueError, TypeError, KeyError: it is malformed.
        """
        name, row, kind = event["labeler"], event["row"], event["kind"]
        if kind not in KINDS or not isinstance(event["id"], str):
            raise ValueError(f"kind {kind!r}, id {event['id']!r}")
        history, stack = self._histories.setdefault(name, []), self._stacks.setdefault((name, row), [])
        if kind == UNDO:
            undone = self.ids[event["undoes"]]
            history.remove(undone)
            stack.remove(undone)
        else:
            history.append(event)
            stack.append(event)
        self.events.append(event)
        self.ids[event["id"]] = event

    def add(self, events: list[dict]) -> None:
        """Append events in one write, and return when they are on the disk.

        Raises:
            OSError: they cannot be written; then none of them is in the file.
        """
        append_lines(self.path, events)
        with self._lock:
            for event in events:
                self._take(event)

    def current(self, labeler: str, row: str) -> dict | None:
        """Return the judgement or skip of a row by a labeler that counts: the last one that is not undone."""
        stack = self._stacks.get((labeler, row))
        return stack[-1] if stack else None

    def last_of(self, labeler: str) -> dict | None:
        """Return the last judgement or skip of a labeler that is not undone."""
        history = self._histories.get(labeler)
        return history[-1] if history else None

    def counting(self) -> list[dict]:
        """Return the judgements and skips that count, one for each labeler and row; from any thread."""
        with self._lock:
            return [stack[-1] for stack in self._stacks.values() if stack]


def now() -> str:
    """Return the time in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
