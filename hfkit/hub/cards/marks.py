"""Cards made anew, for models and for data sets, without a loss of what was written into them by hand.

What hfkit writes stands between two marks. What stands outside them is kept, and so is what was changed in the front
matter: the first mark holds a hash of each item that was generated, so that the others are known to be somebody's. In
the card of a folder it begins with a hash of what was somebody's when hfkit last wrote it: by that a later edit, here
or on the Hub, is known.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml
from huggingface_hub import RepoCard
from huggingface_hub.repocard_data import CardData

from hfkit.core.errors import HfkitError, reason

CARD = "README.md"
MARKED = re.compile(r"<!-- hfkit: generated[^\n]*?\[(\w*): ([0-9a-f ]*)\] -->\n.*\n<!-- /hfkit -->", re.DOTALL)
OPENING = re.compile(r"(<!-- hfkit: generated[^\n]*?\[)\w*(: )")
MARK = "<!-- hfkit: generated; what stands outside these two marks is kept [{}: {}] -->\n{}\n<!-- /hfkit -->"

# Lists that are one thing: each names all files, or the size of all rows.
WHOLE = ("configs", "size_categories")


@dataclass(frozen=True)
class Written:
    """A card as it is.

    Attributes:
        front: its front matter.
        before, after: the text around the generated part; without marks all of it is before.
        generated: hashes of the items of the front matter that were generated.
        hand: hash of what was by hand when hfkit last wrote it here; "" on the Hub, None in a card without marks.
    """

    front: dict = field(default_factory=dict)
    before: str = ""
    after: str = ""
    generated: frozenset[str] = frozenset()
    hand: str | None = None

    @classmethod
    def of(cls, text: str) -> "Written":
        """Reads a card, whoever wrote it.

        Raises:
            HfkitError: its front matter is no YAML mapping.
        """
        text = text.replace("\r\n", "\n").removeprefix("\ufeff")
        try:
            card = RepoCard(text if text.startswith("---\n") else f"---\n{{}}\n---\n{text}")
        except (ValueError, yaml.YAMLError) as error:
            raise HfkitError(f"the front matter of {CARD} cannot be read: {reason(error)}; mend it by hand") from error
        marked = MARKED.search(card.text)
        if marked is None:
            return cls(card.data.to_dict(), before=card.text.strip())
        around = card.text[: marked.start()].strip(), card.text[marked.end() :].strip()
        return cls(card.data.to_dict(), *around, frozenset(marked.group(2).split()), marked.group(1))

    def by_hand(self) -> tuple:
        """What hfkit did not write: the text around its own; hashes of what was added and of what was taken away."""
        items = {short_hash(key, item) for key, value in self.front.items() for item in items_of(key, value)}
        return self.before, self.after, sorted(items - self.generated), sorted(self.generated - items)


def renewed(existing: str | None, front: dict, body: Callable[[dict], str], by_person: bool = False) -> str:
    """A card with what was written by hand into an earlier one.

    Args:
        existing: the card that is there, by whomever; None where there is none.
        front: the front matter as it is generated.
        body: makes the generated text from the front matter as it will stand.
        by_person: whether a card without marks is a person's, whose word counts, and not a library's.

    Raises:
        HfkitError: the front matter of the existing card cannot be read.
    """
    written = Written.of(existing or "")
    merged = merged_front_matter(written, front, by_person)
    hashes = frozenset(short_hash(key, item) for key, value in front.items() for item in items_of(key, value))
    marked = MARK.format("", " ".join(sorted(hashes)), body(merged))
    text = "\n\n".join(part for part in (written.before, marked, written.after) if part)
    return f"---\n{CardData(**merged).to_yaml()}\n---\n\n{text}\n"


def noted(card: str, hand: str | None = None) -> str:
    """A card for its folder, which remembers what was by hand in it when hfkit last made or pushed it.

    Args:
        hand: the hash of that, if it is not what is by hand in it now: it is being made anew, and was edited before.
    """
    return OPENING.sub(rf"\g<1>{hand or short_hash(*Written.of(card).by_hand())}\g<2>", card, count=1)


def newer(here: str | None, there: str | None) -> str | None:
    """Which of two cards was edited by hand since hfkit last wrote the one here: this one, or the one on the Hub.

    Raises:
        HfkitError: both were, and not in the same way; or the front matter of one cannot be read.
    """
    if here is None or there is None:
        return here or there
    card = Written.of(here)
    ours, theirs = card.by_hand(), Written.of(there).by_hand()
    if ours == theirs or (card.hand and short_hash(*ours) == card.hand):
        return there
    if (card.hand and short_hash(*theirs) == card.hand) or not any(theirs):
        return here
    raise HfkitError("it was edited here and on the Hub, in different ways: put both into the one here")


def merged_front_matter(written: Written, new: dict, by_person: bool) -> dict:
    """What is generated now, with what somebody has added, changed or taken away since the last time."""
    old = written.front
    if written.hand is None and not by_person:
        old = {key: value for key, value in old.items() if isinstance(value, list) or key not in new}
        if "tags" in old:  # the Hub derives these, and PEFT writes them with the paths of a machine
            old["tags"] = [tag for tag in old["tags"] if not str(tag).startswith("base_model:")]
    merged = {}
    for key in [*old, *(key for key in new if key not in old)]:
        was, now = items_of(key, old.get(key)), items_of(key, new.get(key))
        taken_away = written.generated - {short_hash(key, item) for item in was}
        added = [item for item in was if short_hash(key, item) not in written.generated and item not in now]
        kept = [item for item in now if short_hash(key, item) not in taken_away]
        value = value_of(key, added, kept, like=new.get(key, old.get(key)))
        if value is not None:
            merged[key] = value
    return merged


def items_of(key: str, value: object) -> list:
    """The parts of a key that can each be somebody's: items of a list, results of the model index, or the value."""
    if key in WHOLE:
        return [value] if value else []
    if key == "model-index" and value:
        return value[0]["results"]
    return value if isinstance(value, list) else [] if value is None else [value]


def value_of(key: str, added: list, kept: list, like: object) -> object:
    """The value of a key from its parts, in the shape of `like`; None where there are none."""
    if key == "model-index":
        return [{**like[0], "results": kept + added}] if kept or added else None
    if isinstance(like, list) and key not in WHOLE:
        return kept + added or None
    return next(iter(added + kept), None)


def short_hash(*parts: object) -> str:
    """A hash of plain values, such as a key and one of its items, short enough for a mark."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
