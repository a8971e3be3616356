"""The model card of a run, made from its record."""

from functools import partial
from pathlib import Path

from hfkit.core.files import write_text
from hfkit.hub.cards.artefact import Artefact
from hfkit.hub.cards.front_matter import front_matter
from hfkit.hub.cards.marks import CARD, Written, noted, renewed, short_hash
from hfkit.hub.cards.model_body import model_card_body

UNTOUCHED = short_hash(*Written().by_hand())
"""The hash of what is by hand in a card where nothing is."""


def write_card(folder: Path, record: dict) -> None:
    """Writes a folder's README.md from its record, with what was written by hand into the one that is there."""
    existing = card_in(folder)
    hand = Written.of(existing).hand
    write_text(folder / CARD, noted(updated_card(existing, folder, record), UNTOUCHED if hand is None else hand))


def card_in(folder: Path) -> str:
    """The README.md of a folder; "" where there is none."""
    file = folder / CARD
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def updated_card(existing: str | None, folder: Path, record: dict, repo_id: str | None = None) -> str:
    """The card of a folder, with what was written by hand into an earlier one.

    Args:
        existing: the card that is there, on the Hub or in the folder, by whomever; None where there is none.
        record: of the run; models that it names by a revision are the Hub's.
        repo_id: where it will be pushed; None for a card that stays in its folder.

    Raises:
        HfkitError: the front matter of the existing card cannot be read.
    """
    artefact = Artefact(Path(folder), record, repo_id)
    return renewed(existing, front_matter(artefact), partial(model_card_body, artefact))
