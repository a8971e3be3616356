"""Validates the judgements that a page sends."""

import re

from fastapi import HTTPException

from hfkit.commands.label.labels_file import JUDGEMENT, SKIP, is_text, now
from hfkit.commands.label.rows import Row

EVENT_ID = re.compile(r"[0-9A-Za-z-]{8,64}")
MAX_TEXT = 200_000
"""Characters of an answer or a note."""
MAX_SECONDS = 86_400.0


def event_id(given: dict) -> str:
    """Return the id of an event, which the browser chooses, so that a repeated request is recognized."""
    identity = given.get("id")
    if not isinstance(identity, str) or not EVENT_ID.fullmatch(identity):
        raise HTTPException(422, "id: 8 to 64 letters, digits or hyphens")
    return identity


def checked_event(given: dict, labeler: str, row: Row, flags: list[str]) -> dict:
    """Return the event to save, after checking every field."""
    kind, count = given.get("kind", JUDGEMENT), len(row.replies)
    require(kind in (JUDGEMENT, SKIP), f"kind: {JUDGEMENT} or {SKIP}")
    seconds = given.get("seconds", 0.0)
    require(is_number(seconds) and seconds >= 0, "seconds: a number that is not negative")
    event = {"id": event_id(given), "kind": kind, "labeler": labeler, "row": row.key, "time": now()}
    event["seconds"] = round(float(min(seconds, MAX_SECONDS)), 2)
    ranks, bad, answer = given.get("ranks"), given.get("all_bad", False), given.get("answer")
    given_flags, note = given.get("flags") or [[] for _ in row.replies], given.get("note") or ""
    require(
        ranks is None or are_ranks(ranks, count),
        f"ranks: null, or {count} ranks from 1 to {count} or null, in the order of the row's responses",
    )
    require(isinstance(bad, bool), "all_bad: true or false")
    require(answer is None or is_short_text(answer), f"answer: null or text of at most {MAX_TEXT:,} characters")
    require(is_short_text(note), f"note: text of at most {MAX_TEXT:,} characters")
    require(
        isinstance(given_flags, list)
        and len(given_flags) == count
        and all(isinstance(own, list) and all(one in flags for one in own) for own in given_flags),
        f"flags: {count} lists of the flags {', '.join(flags)}",
    )
    answer = (answer or "").strip() or None
    if kind == JUDGEMENT:
        is_judged = bad or answer or (ranks is not None and any(rank is not None for rank in ranks))
        require(bool(is_judged), "rank the responses, mark all as bad, or write an answer")
    else:
        ranks, bad, answer = None, False, None
    return event | {"ranks": ranks, "all_bad": bad, "answer": answer, "flags": given_flags, "note": note}


def require(is_valid: bool, fault: str) -> None:
    """Reject a request unless it is valid."""
    if not is_valid:
        raise HTTPException(422, fault)


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def are_ranks(value: object, count: int) -> bool:
    """Return whether a JSON value has a rank, or null, for each of `count` responses."""
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(one is None or (type(one) is int and 1 <= one <= count) for one in value)


def is_short_text(value: object) -> bool:
    """Return whether a JSON value is a text of at most `MAX_TEXT` characters that can be saved."""
    return is_text(value) and len(value) <= MAX_TEXT


def texts_in(value: object) -> list[str]:
    """Return the texts in a JSON list."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
