"""Entries of hfkit's keys of datasets, made from those of another tool's config."""

from dataclasses import dataclass, field

from hfkit.core.errors import Problem

ENTRY = {"path": "path", "name": "name", "split": "split", "revision": "revision"}
"""Fields of a dataset that have the same name and meaning in hfkit."""
RECOGNIZED = {("prompt", "instruction"), ("response", "output"), ("messages", "conversations")}
"""Columns of hfkit with the names that it recognizes without a mapping, in addition to their own."""


@dataclass
class Sources:
    """Entries of hfkit's keys of datasets.

    Attributes:
        entries: key of hfkit -> entries.
        read: keys of the other tool that were translated.
        undecided: what could not be.
        templates: a chat template for each entry, as Jinja, that writes prompts as the tool does; "" for the model's.
    """

    entries: dict[str, list[dict]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    undecided: list[Problem] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)


def source_entry(item: dict) -> dict:
    """Return the entry of the files or the Hub dataset that an item names."""
    entry = {ours: item[theirs] for theirs, ours in ENTRY.items() if item.get(theirs) is not None}
    entry = {name: value for name, value in entry.items() if (name, value) != ("split", "train")}
    return entry | ({"path": item["data_files"]} if isinstance(item.get("data_files"), str) else {})
