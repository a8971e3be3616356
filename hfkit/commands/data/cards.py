"""hfkit data cards

The data cards that come with hfkit, in a table: what a config can name as `datasets: [{card: NAME}]`. With a name, the
card itself: `hfkit data cards ultrachat`.
"""

from argparse import Namespace

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from hfkit.data.cards import READ_BY, Card, card_names, load_card


def main(given: Namespace) -> int:
    """Run `hfkit data cards`."""
    console = Console()
    if given.name is not None:
        console.print(Markdown(load_card(given.name).text))
        return 0
    console = console if console.is_terminal else Console(width=200)  # a line of a file is not broken
    console.print(card_table([load_card(name) for name in card_names()]))
    return 0


def card_table(cards: list[Card]):
    """Name, form, stages, splits, licence and source of each card."""
    table = Table()
    for column in ("card", "form", "stages", "splits", "licence", "source"):
        table.add_column(column, no_wrap=column == "card")
    for card in cards:
        recipe, licence = card.recipe, card.data.license
        table.add_row(
            card.name,
            recipe.form,
            READ_BY[recipe.form],
            ", ".join(recipe.splits or recipe.files),
            ", ".join(licence) if isinstance(licence, list) else licence,
            recipe.path,
        )
    return table
