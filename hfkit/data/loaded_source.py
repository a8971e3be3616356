"""The rows of a source, with what a reader of the run should know of them."""

from dataclasses import dataclass, field

from datasets import Dataset

from hfkit.core.console import say, warn
from hfkit.data.columns import MAY_MATTER, unread_notes

LEFT_ROLES = "roles that are left to the chat template, and not trained on:"
"""How the line about unknown roles begins."""


@dataclass
class LoadedSource:
    """The rows of one entry, and what a reader of the run should know of them.

    Attributes:
        format: a line about the format that was recognized; "" if a card or the entry says how to read the rows.
        left_out: number of rows that `keep` left out, or the conversion `drop_ties`.
        unread: columns of the dataset that are not read.
        roles: roles that were renamed, and unknown ones, which stand for themselves: {spelling: role}.
        repeated: columns of responses that began with their prompt.
        shadowed: columns of the stage that are not read, because each row has one that comes first: {column: first}.
        mapped: columns of the stage that are read -> expressions over the dataset's, None where nothing is mapped.
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

    def stats(self) -> dict:
        """Return the statistics for the record, without those that are empty."""
        found = {name: getattr(self, name) for name in ("format", "left_out", "unread", "roles", "repeated")}
        found["unread"] = [*self.unread, *self.shadowed]
        return {name: value for name, value in found.items() if value}

    def notes(self) -> list[str]:
        """Return lines about columns that are not read, those that may matter, roles and repeated prompts."""
        renamed = ", ".join(f"{spelling} as {role}" for spelling, role in self.roles.items() if spelling != role)
        unknown = ", ".join(spelling for spelling, role in self.roles.items() if spelling == role)
        notes = unread_notes(self.unread, self.mapped)
        notes += [f"{MAY_MATTER} {name}: each row is read from its {first}" for name, first in self.shadowed.items()]
        notes += [f"roles under other names are read as usual: {renamed}"] if renamed else []
        notes += [f"{LEFT_ROLES} {unknown}"] if unknown else []
        begun = ", ".join(self.repeated)
        return notes + ([f"each {begun} begins with its prompt, which is read once"] if begun else [])

    def report(self) -> None:
        """Print the format, unless the rows are read as they are, and the notes; warn of columns that may matter."""
        if self.format and (self.left_out or any(self.mapped.values())):
            say(f"{self.label}: {self.format}")
        for note in self.notes():
            (warn if note.startswith((MAY_MATTER, LEFT_ROLES)) else say)(f"{self.label}: {note}")
