"""Holds the rows of a source, with the notes that a run reports about them."""

from dataclasses import dataclass, field

from datasets import Dataset

from hfkit.core.console import say, warn
from hfkit.data.columns import MAY_MATTER, unread_notes

LEFT_ROLES = "unknown roles, passed to the chat template and not trained on:"
"""The start of the line about unknown roles."""


@dataclass
class LoadedSource:
    """The rows of one entry, and the notes that a run reports about them.

    Attributes:
        format: a line about the recognized format; "" if a card or the entry defines how to read the rows.
        left_out: number of rows that `keep` or the conversion `drop_ties` left out.
        unread: columns of the dataset that are not read.
        roles: renamed roles, and unknown ones, which map to themselves: {spelling: role}.
        repeated: columns of responses that began with their prompt.
        shadowed: columns of the stage that are not read because another one takes precedence: {column: other}.
        mapped: columns of the stage that are read -> expressions over the dataset's columns; None if not mapped.
        is_chosen: whether `columns` of the entry maps the input, so columns that it does not name are left out on
            purpose.
    """

    rows: Dataset
    label: str
    format: str = ""
    left_out: int = 0
    unread: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    shadowed: dict[str, str] = field(default_factory=dict)
    mapped: dict[str, str | None] = field(default_factory=dict)
    is_chosen: bool = False

    def stats(self) -> dict:
        """Return the statistics for the record, without empty ones."""
        found = {name: getattr(self, name) for name in ("format", "left_out", "unread", "roles", "repeated")}
        found["unread"] = [*self.unread, *self.shadowed]
        return {name: value for name, value in found.items() if value}

    def notes(self) -> list[str]:
        """Return lines about unread columns, those that may matter, roles and repeated prompts."""
        renamed = ", ".join(f"{spelling} as {role}" for spelling, role in self.roles.items() if spelling != role)
        unknown = ", ".join(spelling for spelling, role in self.roles.items() if spelling == role)
        notes = unread_notes(self.unread, self.mapped, self.is_chosen)
        notes += [f"{MAY_MATTER} {name}: each row is read from its {first}" for name, first in self.shadowed.items()]
        notes += [f"roles renamed: {renamed}"] if renamed else []
        notes += [f"{LEFT_ROLES} {unknown}"] if unknown else []
        begun = ", ".join(self.repeated)
        return notes + ([f"each {begun} begins with its prompt, which is removed from it"] if begun else [])

    def report(self) -> None:
        """Print the recognized format, if any, and the notes; warn about columns that may matter."""
        if self.format and (self.left_out or any(self.mapped.values())):
            say(f"{self.label}: {self.format}")
        for note in self.notes():
            (warn if note.startswith((MAY_MATTER, LEFT_ROLES)) else say)(f"{self.label}: {note}")
