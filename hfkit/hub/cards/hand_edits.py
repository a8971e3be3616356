"""Regenerate the card of a model or dataset and keep what people edited in it.

hfkit writes between two markers. Text outside them is kept. In the metadata, hashes in the first marker tell generated
items from those that people added, changed or removed, which are kept. In a local card the first marker begins with
one more hash, of the edits when hfkit last wrote the card: it reveals later edits.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import RepoCard
from huggingface_hub.repocard_data import CardData

from hfkit.core.errors import HfkitError, reason
from hfkit.core.files import read_text
from hfkit.core.yaml import front_matter

README = "README.md"
GENERATED = re.compile(r"<!-- hfkit: generated[^\n]*?\[(\w*): ([0-9a-f ]*)\] -->\n.*\n<!-- /hfkit -->", re.DOTALL)
EDIT_HASH = re.compile(r"(<!-- hfkit: generated[^\n]*?\[)\w*(: )")
MARKED = "<!-- hfkit: generated; text outside these two markers is kept [{}: {}] -->\n{}\n<!-- /hfkit -->"
UNSPLIT_KEYS = ("configs", "size_categories")
"""Lists in the metadata that are regenerated or kept as a whole."""


@dataclass(frozen=True)
class ParsedCard:
    """A card, taken apart.

    Attributes:
        metadata: the YAML front matter.
        before, after: the text around the generated part; without markers all text is in `before`.
        generated: hashes of the items of the metadata that were generated.
        edit_hash: of the edits when hfkit last wrote the local card; "" in a card from the Hub, None without markers.
    """

    metadata: dict = field(default_factory=dict)
    before: str = ""
    after: str = ""
    generated: frozenset[str] = frozenset()
    edit_hash: str | None = None

    @classmethod
    def of(cls, text: str) -> "ParsedCard":
        """Parse a card, with or without hfkit's markers.

        Raises:
            HfkitError: its metadata is not a YAML mapping.
        """
        text = text.replace("\r\n", "\n").removeprefix("\ufeff")
        try:
            front_matter(text)  # unsafe YAML fails here, before another parser reads it
            card = RepoCard(text if text.startswith("---\n") else f"---\n{{}}\n---\n{text}")
        except (ValueError, yaml.YAMLError) as error:
            raise HfkitError(f"the metadata of {README} cannot be read: {reason(error)}; correct it by hand") from error
        found = GENERATED.search(card.text)
        if found is None:
            return cls(card.data.to_dict(), before=card.text.strip())
        around = card.text[: found.start()].strip(), card.text[found.end() :].strip()
        return cls(card.data.to_dict(), *around, frozenset(found.group(2).split()), found.group(1))

    def edits(self) -> tuple:
        """Return what people edited: the text around the generated part, hashes of added and of removed items."""
        items = item_hashes(self.metadata)
        return self.before, self.after, sorted(items - self.generated), sorted(self.generated - items)


def read_card(folder: Path) -> str | None:
    """Return the README.md of a folder, or None if there is none.

    Raises:
        HfkitError: it is not text in UTF-8.
    """
    file = folder / README
    try:
        return read_text(file) if file.is_file() else None
    except UnicodeDecodeError as error:
        raise HfkitError(f"{file} cannot be read: {reason(error)}; save it as UTF-8") from error


def regenerate_card(
    existing: str | None, metadata: dict, body: Callable[[dict], str], keep_unmarked: bool = False
) -> str:
    """Return a new card with the edits of the existing one.

    Args:
        existing: the present card, with or without hfkit's markers; None if there is none.
        metadata: the generated metadata.
        body: returns the generated text, given the final metadata.
        keep_unmarked: whether the metadata of a card without markers is kept, as written by a person. By default it
            is replaced by the generated one, as written by a library.

    Raises:
        HfkitError: the metadata of the existing card cannot be read.
    """
    parsed = ParsedCard.of(existing or "")
    merged = merge_metadata(parsed, metadata, keep_unmarked)
    marked = MARKED.format("", " ".join(sorted(item_hashes(metadata))), body(merged))
    text = "\n\n".join(part for part in (parsed.before, marked, parsed.after) if part)
    return f"---\n{CardData(**merged).to_yaml()}\n---\n\n{text}\n"


def with_edit_hash(card: str, edit_hash: str | None = None) -> str:
    """Return a card for a local folder, with a hash in the first marker: of its edits, or an earlier `edit_hash`."""
    return EDIT_HASH.sub(rf"\g<1>{edit_hash or short_hash(*ParsedCard.of(card).edits())}\g<2>", card, count=1)


def latest_card(local: str | None, on_hub: str | None) -> str | None:
    """Return whichever card was edited since hfkit last wrote the local one: the local card or the one on the Hub.

    Raises:
        HfkitError: both were edited, in different ways, or the metadata of one cannot be read.
    """
    if local is None or on_hub is None:
        return local or on_hub
    card = ParsedCard.of(local)
    local_edits, hub_edits = card.edits(), ParsedCard.of(on_hub).edits()
    if local_edits == hub_edits or (card.edit_hash and short_hash(*local_edits) == card.edit_hash):
        return on_hub
    if (card.edit_hash and short_hash(*hub_edits) == card.edit_hash) or not any(hub_edits):
        return local
    raise HfkitError("it was edited here and on the Hub, in different ways: merge both edits into the local file")


def merge_metadata(parsed: ParsedCard, new: dict, keep_unmarked: bool) -> dict:
    """Return the generated metadata with every item that was added, changed or removed by hand."""
    old = parsed.metadata
    if parsed.edit_hash is None and not keep_unmarked:
        old = {key: value for key, value in old.items() if isinstance(value, list) or key not in new}
        if "tags" in old:  # the Hub derives these; PEFT writes them with local paths
            old["tags"] = [tag for tag in old["tags"] if not str(tag).startswith("base_model:")]
    merged = {}
    for key in [*old, *(key for key in new if key not in old)]:
        old_items, new_items = items_of(key, old.get(key)), items_of(key, new.get(key))
        removed = parsed.generated - {short_hash(key, item) for item in old_items}
        added = [one for one in old_items if short_hash(key, one) not in parsed.generated and one not in new_items]
        kept = [item for item in new_items if short_hash(key, item) not in removed]
        value = join_items(key, added, kept, like=new.get(key, old.get(key)))
        if value is not None:
            merged[key] = value
    return merged


def items_of(key: str, value: object) -> list:
    """Return the parts of a key that can be edited apart: items of a list, results of the model index, or the value."""
    if key in UNSPLIT_KEYS:
        return [value] if value else []
    if key == "model-index" and value:
        return value[0]["results"]
    return value if isinstance(value, list) else [] if value is None else [value]


def join_items(key: str, added: list, kept: list, like: object) -> object:
    """Return the value of a key from its items, in the shape of `like`; None without any."""
    if key == "model-index":
        return [{**like[0], "results": kept + added}] if kept or added else None
    if isinstance(like, list) and key not in UNSPLIT_KEYS:
        return kept + added or None
    return next(iter(added + kept), None)


def item_hashes(metadata: dict) -> frozenset[str]:
    """Return the hashes of all items of the metadata."""
    return frozenset(short_hash(key, item) for key, value in metadata.items() for item in items_of(key, value))


def short_hash(*parts: object) -> str:
    """Return a hash of JSON values, short enough for a marker."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
