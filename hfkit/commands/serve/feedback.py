"""Feedback of users on responses, as rows that label, sft and reward read.

A thumb is a row `{prompt, completion, label}`. A correction is two: the corrected response is good, the model's is not.
So `hfkit sft` trains on the good responses, and `hfkit reward` on pairs of a good and a bad one to the same prompt.
"""

import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from hfkit.commands.serve.errors import ApiError
from hfkit.commands.serve.requests import read_messages
from hfkit.core.errors import ConfigError, Problem, reason
from hfkit.data.messages import Messages, with_json_arguments

MOST_KEPT, MOST_KEPT_CHARACTERS = 1000, 64 << 20
MOST_FLAGS, LONGEST_FLAG, LONGEST_TEXT = 32, 200, 100_000
LONGEST_ROW = 64 << 20
RATINGS = {"up": True, "down": False}


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
            self.file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.drop_cut_line()
        except (OSError, ValueError) as error:
            raise ConfigError([Problem("--feedback", str(path), reason(error))], "the command line") from error

    def drop_cut_line(self) -> None:
        """End the last line; remove it if it is incomplete, because the machine stopped while it was written."""
        size = os.fstat(self.file).st_size
        end = os.pread(self.file, LONGEST_ROW, max(0, size - LONGEST_ROW))
        if not end or end.endswith(b"\n"):
            return
        line = end[end.rfind(b"\n") + 1 :]
        try:
            json.loads(line)
        except ValueError:
            os.ftruncate(self.file, size - len(line))
        else:
            os.write(self.file, b"\n")

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
        rows = feedback_rows(body, self.find(body))
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")
        with self.lock:
            before = os.fstat(self.file).st_size
            try:
                if os.write(self.file, lines) < len(lines):
                    raise OSError("the disk is full")
                os.fsync(self.file)
            except OSError:
                os.ftruncate(self.file, before)
                raise
        return len(rows)

    def find(self, body: dict) -> Answered:
        """Return the response that feedback is about: that of an id, or of the feedback itself.

        Raises:
            ApiError: there is none.
        """
        identifier, response = body.get("id"), body.get("response")
        if identifier is not None:
            with self.lock:
                found = self.answered.get(identifier) if isinstance(identifier, str) else None
            if found is None:
                remedy = "send messages and response instead"
                raise ApiError(404, f"id: {identifier!r} is not among the last responses: {remedy}", "id", "not_found")
            return found[0]
        if not isinstance(response, str) or not response:
            raise ApiError(400, "expected the id of a response, or messages and response", "id")
        model = body.get("model", "")
        messages = read_messages(body.get("messages"), "messages")
        return Answered(model if isinstance(model, str) else "", messages, None, response)


def feedback_rows(body: dict, answered: Answered) -> list[dict]:
    """Return the rows of a feedback.

    Raises:
        ApiError: a field is invalid.
    """
    correction, rating = body.get("correction"), body.get("rating")
    flags, note = body.get("flags") or [], body.get("note") or ""
    if correction is not None and not (isinstance(correction, str) and correction.strip()):
        raise ApiError(400, "correction: expected a text", "correction")
    if rating not in (*RATINGS, None) or (rating is None and correction is None):
        raise ApiError(400, f"rating: {rating!r} -> expected 'up' or 'down'", "rating")
    if correction is not None and (rating == "up" or correction.strip() == answered.completion):
        raise ApiError(400, "correction: a response that is good as it is needs none", "correction")
    if not isinstance(flags, list) or not all(isinstance(one, str) and len(one) <= LONGEST_FLAG for one in flags):
        raise ApiError(400, f"flags: expected a list of texts of at most {LONGEST_FLAG} characters", "flags")
    if len(flags) > MOST_FLAGS:
        raise ApiError(400, f"flags: expected at most {MOST_FLAGS}", "flags")
    if not isinstance(note, str) or len(note) > LONGEST_TEXT:
        raise ApiError(400, f"note: expected a text of at most {LONGEST_TEXT} characters", "note")
    tools = {"tools": json.dumps(answered.tools, ensure_ascii=False)} if answered.tools else {}
    common = {"prompt": with_json_arguments(answered.prompt), **tools, "model": answered.model}
    common |= {"id": body.get("id") or "", "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    label = RATINGS.get(rating or "down", False)
    rows = [{**common, "completion": answered.completion, "label": label, "flags": flags, "note": note}]
    if correction is not None:
        rows.append({**common, "completion": correction.strip(), "label": True, "flags": [], "note": ""})
    return rows
