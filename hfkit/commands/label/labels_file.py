"""Keeps the judgements: one JSON object a line, written through to the disk before anyone learns that it is saved."""

import threading
from collections.abc import Container
from datetime import datetime, timezone
from pathlib import Path

from hfkit.core.errors import HfkitError, reason
from hfkit.core.json_lines import append_lines, read_appended
from hfkit.core.limits import UnsafeFileError
from hfkit.core.names import is_utf8

JUDGEMENT, SKIP, UNDO = "judgement", "skip", "undo"
KINDS = (JUDGEMENT, SKIP, UNDO)


class LabelsFile:
    """A file of events, which only grows.

    A last line that a killed process cut off is dropped; one that lacks only its end, as editors write it, is kept.

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
            fault = str(error) if isinstance(error, UnsafeFileError) else fault
            raise HfkitError(f"{path}: {fault}: repair it, or choose another --output_dir") from error

    def _take(self, event: dict) -> None:
        """Take an event into account.

        Raises:
            ValueError, TypeError, KeyError: it is malformed.
        """
        if fault := fault_of(event):
            raise ValueError(fault)
        name, row, kind = event["labeler"], event["row"], event["kind"]
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

    def last_of(self, labeler: str, rows: Container[str]) -> dict | None:
        """Return the last judgement or skip of some rows by a labeler that is not undone."""
        return next((event for event in reversed(self._histories.get(labeler, [])) if event["row"] in rows), None)

    def counting(self) -> list[dict]:
        """Return the judgements and skips that count, one for each labeler and row; from any thread."""
        with self._lock:
            return [stack[-1] for stack in self._stacks.values() if stack]


def fault_of(event: dict) -> str | None:
    """Return what is wrong with an event that someone may have edited, or None.

    Raises:
        TypeError, KeyError: it is not a mapping, or lacks a field.
    """
    ranks, flags, seconds = event.get("ranks"), event.get("flags"), event.get("seconds")
    checks = {
        "kind": event["kind"] in KINDS,
        **{name: is_text(event[name]) for name in ("id", "labeler", "row")},
        **{name: event.get(name) is None or is_text(event[name]) for name in ("answer", "note")},
        "ranks": ranks is None or (isinstance(ranks, list) and all(one is None or type(one) is int for one in ranks)),
        "all_bad": isinstance(event.get("all_bad", False), bool),
        "flags": flags is None
        or (isinstance(flags, list) and all(isinstance(own, list) and all(map(is_text, own)) for own in flags)),
        "seconds": seconds is None or (type(seconds) in (int, float) and 0 <= seconds < float("inf")),
    }
    return next((f"{name}: {event.get(name)!r}" for name, is_valid in checks.items() if not is_valid), None)


def is_text(value: object) -> bool:
    """Return whether a JSON value is a text that can be saved; UTF-8 cannot hold half of a surrogate pair."""
    return isinstance(value, str) and is_utf8(value)


def now() -> str:
    """Return the time in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
