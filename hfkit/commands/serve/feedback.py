"""Feedback of users on responses, as rows that label, sft and reward read.

A thumb is a row `{prompt, completion, label}`. A correction is two: the corrected response is good, the model's is not.
So `hfkit sft` trains on the good responses, and `hfkit reward` on pairs of a good and a bad one to the same prompt.
`hfkit label` shows rows with the same id together.
"""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import Field, StringConstraints

from hfkit.commands.serve.errors import ApiError
from hfkit.commands.serve.requests import read_messages, read_valid
from hfkit.commands.web.fields import JsonFields
from hfkit.core.errors import ConfigError, Problem, reason
from hfkit.core.json_lines import append_lines, read_appended
from hfkit.data.messages import Messages, with_json_arguments

MOST_KEPT, MOST_KEPT_CHARACTERS = 1000, 64 << 20


class Feedback(JsonFields):
    """What a user thinks of a response: that of an id, or the given one."""

    id: str | None = None
    response: Annotated[str, Field(min_length=1)] | None = None
    model: str = ""
    rating: Literal["up", "down"] | None = None
    correction: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    flags: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=32)] = []
    note: Annotated[str, Field(max_length=100_000)] = ""


@dataclass(frozen=True)
class Answered:
    """A response that feedback can refer to."""

    model: str
    prompt: Messages
    tools: list[dict] | None
    completion: str | Messages

    def size(self) -> int:
        """Return its length in characters."""
        return len(json.dumps([self.prompt, self.tools, self.completion]))


class FeedbackFile:
    """A JSONL file to which feedback is appended, and the last responses.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        self.answered: OrderedDict[str, tuple[Answered, int]] = OrderedDict()
        self.size = 0
        try:
            if path.suffix != ".jsonl":
                raise ValueError("expected the name of a JSONL file: FILE.jsonl")
            read_appended(path)
            append_lines(path, [], 0o600)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem("--feedback", str(path), reason(error))], "the command line") from error

    def keep(self, identifier: str, answered: Answered) -> None:
        """Keep a response for feedback on it; the oldest ones are dropped."""
        with self.lock:
            size = answered.size()
            self.answered[identifier] = answered, size
            self.size += size
            while len(self.answered) > MOST_KEPT or (self.size > MOST_KEPT_CHARACTERS and len(self.answered) > 1):
                self.size -= self.answered.popitem(last=False)[1][1]

    def add(self, body: dict) -> int:
        """Append the rows of a feedback, and return their number when they are on the disk.

        Raises:
            ApiError: it is invalid, or the response is not known any more.
            OSError: the rows could not be written.
        """
        given = read_valid(Feedback, body)
        rows = feedback_rows(given, self.find(given, body.get("messages")))
        with self.lock:
            append_lines(self.path, rows)
        return len(rows)

    def find(self, given: Feedback, messages: object) -> Answered:
        """Return the response that feedback is about: that of an id, or the given one with the messages before it.

        Raises:
            ApiError: there is none.
        """
        if given.id is not None:
            with self.lock:
                found = self.answered.get(given.id)
            if found is None:
                remedy = "send messages and response instead"
                raise ApiError(404, f"id: {given.id!r} is not among the last responses: {remedy}", "id", "not_found")
            return found[0]
        if given.response is None:
            raise ApiError(400, "expected the id of a response, or messages and response", "id")
        return Answered(given.model, read_messages(messages, "messages"), None, given.response)


def feedback_rows(given: Feedback, answered: Answered) -> list[dict]:
    """Return the rows of a feedback.

    Raises:
        ApiError: it has neither a rating nor a correction, or a correction of a good response.
    """
    if given.rating is None and given.correction is None:
        raise ApiError(400, "rating: expected 'up' or 'down', or a correction", "rating")
    if given.correction is not None and (given.rating == "up" or given.correction == answered.completion):
        raise ApiError(400, "correction: a response that is good as it is needs none", "correction")
    tools = {"tools": json.dumps(answered.tools, ensure_ascii=False)} if answered.tools else {}
    common = {"prompt": with_json_arguments(answered.prompt), **tools, "model": answered.model}
    common |= {
        "id": given.id or f"feedback-{uuid4().hex}",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    row = {"completion": answered.completion, "label": given.rating == "up", "flags": given.flags, "note": given.note}
    rows = [{**common, **row}]
    if given.correction is not None:
        rows.append({**common, "completion": given.correction, "label": True, "flags": [], "note": ""})
    return rows
