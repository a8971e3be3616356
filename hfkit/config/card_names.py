"""Where the data cards that come with hfkit are, and their names; nothing is read from them."""

from pathlib import Path

# The first is in a checkout, the second in an installation.
FOLDERS = (Path(__file__).parents[2] / "data_cards", Path(__file__).parents[1] / "data_cards")
TEMPLATE_CARD = "TEMPLATE"


def card_names() -> list[str]:
    """Return the names of the cards that come with hfkit."""
    files = [file for folder in FOLDERS for file in folder.glob("*.md")]
    return sorted({file.stem for file in files} - {TEMPLATE_CARD, "README"})
