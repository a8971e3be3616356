"""hfkit data cards

Lists the data cards that come with hfkit, which a config can name: `datasets: [{card: NAME}]`. With a name, shows the
card: `hfkit data cards ultrachat`.
"""

from argparse import Namespace

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from hfkit.config.registry import STAGES
from hfkit.data.cards import Card, card_names, load_card
from hfkit.data.forms import FORMS
from hfkit.data.sources import can_read


def main(given: Namespace) -> int:
    """Run `hfkit data cards`."""
    console = Console()
    if given.name is not None:
        console.print(Markdown(load_card(given.name).text))
        return 0
    console = console if console.is_terminal else Console(width=200)  # so that lines in a file are not broken
    console.print(card_table([load_card(name) for name in card_names()]))
    return 0


def card_table(cards: list[Card]):
    """Return a table of the name, form, stages, splits, license and source of each card."""
    table = Table()
    for column in ("card", "form", "stages", "splits", "license", "source"):
        table.add_column(column, no_wrap=column == "card")
    for card in cards:
        recipe, license = card.recipe, card.data.license
        table.add_row(
            card.name,
            recipe.form,
            stages_reading(recipe.form),
            ", ".join(recipe.splits or recipe.files),
            ", ".join(license) if isinstance(license, list) else license,
            recipe.path,
        )
    return table


def stages_reading(form: str) -> str:
    """Return the stages that read a card's form, as text; a stage that needs prompts takes them from most forms."""
    names = []
    for name, spec in STAGES.items():
        if spec.form and can_read(FORMS[spec.form].columns, form):
            names.append(f"{name} (its prompts)" if spec.form == "prompts" != form else name)
    return ", ".join(names)
