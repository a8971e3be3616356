"""A data set on its way to its repository: a folder as it is, or the files that a data card names."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from huggingface_hub import DatasetCard

from hfkit.core.errors import HfkitError, Problem
from hfkit.core.files import write_text
from hfkit.data.cards import Card, load_card
from hfkit.hub.cards.data_card import DataSet, data_card
from hfkit.hub.cards.marks import CARD, Written, newer, noted
from hfkit.hub.data_files import DEFAULT, DataFile, names_in_card, names_of, secrets_in, subset_and_split, tables_in
from hfkit.hub.files import File, secret_problems
from hfkit.hub.plan import Plan
from hfkit.hub.remote import Remote, visibility_problems
from hfkit.hub.upload import Upload


@dataclass
class DataUpload(Upload):
    """As `Upload`, of a data set.

    Attributes:
        card: the data card that names its files, if it is not a folder as it is.
    """

    card: Card | None = None

    type = "dataset"
    card_class = DatasetCard

    @classmethod
    def of(cls, source: str, *args, **kwargs) -> "DataUpload":
        """That of a folder or of a data card, by name or file.

        Raises:
            HfkitError: there is no such folder or card, the card cannot be read, or its rows are on the Hub.
        """
        if Path(source).is_dir():
            return cls(Path(source), *args, **kwargs)
        card = load_card(source)
        if not card.recipe.files:
            raise HfkitError(f"the rows of {card.name} are on the Hub, at {card.recipe.path}: there is nothing to push")
        return cls(Path(card.recipe.path), *args, card=card, **kwargs)

    @cached_property
    def names(self) -> tuple[list[str], list[str], list[str], list[Problem]]:
        """As `data_files.names_of`."""
        return names_of(self.folder) if self.card is None else names_in_card(self.card)

    @cached_property
    def tables(self) -> tuple[list[DataFile], list[Problem]]:
        """The data files, read, and what is wrong with them."""
        if self.card is None:
            return tables_in(self.folder, {name: subset_and_split(name) for name in self.names[0]})
        return tables_in(self.folder, {file: (DEFAULT, split) for split, file in self.card.recipe.files.items()})

    def planned(self, card: str | None = None, token: str | None = None) -> tuple[Plan, list[Problem]]:
        """The plan as it is now, and what speaks against it.

        Args:
            card: the README.md that is in the repository now.
            token: of the user, which must be in no file.
        """
        data, others, left_out, problems = self.names
        files = {name: File(name, self.folder / name) for name in others if name != CARD}
        problems = list(problems)
        if not problems:
            tables, problems = self.tables[0], [*self.tables[1]]
            problems += [] if self.plan else secrets_in(tables, token)  # once is enough
        if not problems:
            try:
                existing = newer(self.card_here(), card)
                files[CARD] = File(CARD, data_card(existing, DataSet(self.repo_id, tables, self.recipe)).encode())
                problems += config_problems(files[CARD], data)
            except HfkitError as error:
                problems.append(Problem(CARD, "as it is", str(error)))
        problems += secret_problems(files, token)
        files |= {name: File(name, self.folder / name) for name in data}
        return Plan(self.folder, self.repo_id, files, left_out, None, None), problems

    @property
    def recipe(self):
        """Of the data card, if there is one."""
        return self.card and self.card.recipe

    def card_here(self) -> str | None:
        """The README.md of the folder, or the data card without its recipe, which is another on the Hub."""
        if self.card is None:
            file = self.folder / CARD
            return file.read_text(encoding="utf-8") if file.is_file() else None
        card = DatasetCard(self.card.file.read_text(encoding="utf-8"))
        card.data.pop("hfkit")
        return str(card)

    def problems_with(self, remote: Remote) -> list[Problem]:
        """What in the repository speaks against it: who may read it."""
        return visibility_problems(remote, self.private)

    def remember(self, commit: str) -> None:
        """Leaves the card in the folder as it is on the Hub: by that a later edit is known; a data card stays."""
        if self.card is None:
            write_text(self.folder / CARD, noted(self.plan.files[CARD].data.decode()))


def config_problems(card: File, names: list[str]) -> list[Problem]:
    """`configs` in the front matter, written by hand, that name files which are not there."""
    problems = []
    for config in Written.of(card.data.decode()).front.get("configs", []):
        for pattern in paths_in(config.get("data_files")):
            if not any(fnmatchcase(name, pattern) for name in names):
                problems.append(Problem(f"{CARD}: configs", pattern, "there is no such file: name those that are"))
    return problems


def paths_in(given: object) -> list[str]:
    """The paths of `data_files`, which the Hub takes as a text, a list of texts, or of splits with their paths."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, dict):
        return paths_in(given.get("path"))
    return [path for item in given for path in paths_in(item)] if isinstance(given, list) else []
