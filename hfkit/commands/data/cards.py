"""hfkit data cards

Lists the data cards that come with hfkit, which a config can name: `datasets: [{card: NAME}]`. With a name, shows the
card: `hfkit data cards ultrachat`.
"""

from argparse import Namespace

from rich.markdown import Markdown
from rich.table import Column, Table

from hfkit.config.card_names import card_names
from hfkit.config.registry import STAGES
from hfkit.core.console import printable
from hfkit.core.tables import make_console
from hfkit.data.cards import load_card
from hfkit.data.columns import can_read
from hfkit.data.forms import FORMS


def main(given: Namespace) -> int:
    """Run `hfkit data cards`."""
    if given.name is not None:
        make_console().print(Markdown(printable(load_card(given.name).text)))
        return 0
    table = Table(Column("card", no_wrap=True), "form", "stages", "splits", "license", "source")
    for card in map(load_card, card_names()):
        recipe, license = card.recipe, card.data.license
        table.add_row(
            card.name,
            recipe.form,
            stages_reading(recipe.form),
            ", ".join(recipe.splits or recipe.files),
            ", ".join(license) if isinstance(license, list) else license,
            recipe.path,
        )
    make_console(width=200).print(table)  # lines in a file are not wrapped
    return 0


def stages_reading(form: str) -> str:
    """Return the stages that read a card's form, as text; most forms also provide prompts."""
    names = []
    for name, spec in STAGES.items():
        if spec.form and can_read(FORMS[spec.form].columns, form):
            names.append(f"{name} (its prompts)" if spec.form == "prompts" != form else name)
    return ", ".join(names)
