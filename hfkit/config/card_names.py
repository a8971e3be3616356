"""Lists the data cards that ship with hfkit, without reading them."""

from hfkit.core.shipped import shipped_folder

CARD_FOLDER = shipped_folder("data_cards")
TEMPLATE_CARD = "TEMPLATE"


def card_names() -> list[str]:
    """Return the names of the cards that ship with hfkit."""
    return sorted({file.stem for file in CARD_FOLDER.glob("*.md")} - {TEMPLATE_CARD, "README"})
