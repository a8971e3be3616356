"""Validates the judgements that a page sends."""

from typing import Annotated, Literal

from pydantic import Field
from starlette.exceptions import HTTPException

from hfkit.commands.label.labels_file import JUDGEMENT, SKIP, now
from hfkit.commands.label.rows import Row
from hfkit.commands.web.fields import Given, JsonFields, read_fields

Text = Annotated[str, Field(max_length=200_000)]
MAX_SECONDS = 86_400.0


class SentEvent(JsonFields):
    """An event of any kind: the browser chooses its id, so that a repeated request is recognized."""

    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]


class SentJudgement(SentEvent):
    """A judgement or a skip; `ranks` and `flags` are in the order of the row's responses."""

    kind: Literal["judgement", "skip"] = JUDGEMENT
    seconds: Annotated[float, Field(ge=0)] = 0.0
    ranks: list[int | None] | None = None
    all_bad: bool = False
    answer: Text | None = None
    flags: list[list[str]] = []
    note: Text = ""


def read_sent(kind: type[Given], given: dict) -> Given:
    """Return the fields of a request, or reject it."""
    return read_fields(kind, given, lambda _, message: HTTPException(422, message))


def checked_event(given: dict, labeler: str, row: Row, flags: list[str]) -> dict:
    """Return the event to save, after checking every field."""
    sent, count = read_sent(SentJudgement, given), len(row.replies)
    ranks, answer, own_flags = sent.ranks, (sent.answer or "").strip() or None, sent.flags or [[] for _ in row.replies]
    require(
        ranks is None or (len(ranks) == count and all(rank is None or 1 <= rank <= count for rank in ranks)),
        f"ranks: null, or {count} ranks from 1 to {count} or null, in the order of the row's responses",
    )
    require(
        len(own_flags) == count and all(flag in flags for own in own_flags for flag in own),
        f"flags: {count} lists of the flags {', '.join(flags)}",
    )
    is_judged = sent.all_bad or answer or any(rank is not None for rank in ranks or [])
    require(sent.kind == SKIP or is_judged, "rank the responses, mark all as bad, or write an answer")
    verdict = {"ranks": ranks, "all_bad": sent.all_bad, "answer": answer}
    if sent.kind == SKIP:
        verdict = {"ranks": None, "all_bad": False, "answer": None}
    event = {"id": sent.id, "kind": sent.kind, "labeler": labeler, "row": row.key, "time": now()}
    event["seconds"] = round(min(sent.seconds, MAX_SECONDS), 2)
    return event | verdict | {"flags": own_flags, "note": sent.note}


def require(is_valid: object, fault: str) -> None:
    """Reject a request unless it is valid."""
    if not is_valid:
        raise HTTPException(422, fault)


def texts_in(value: object) -> list[str]:
    """Return the texts in a JSON list."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
