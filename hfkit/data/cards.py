"""Reads data cards: dataset cards as on the Hub, in `data_cards/`, whose `hfkit` block defines how to load rows."""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import DatasetCard

from hfkit.config.card_names import CARD_FOLDER, TEMPLATE_CARD, card_names
from hfkit.config.fields import Conversion
from hfkit.config.validation import check_fields, check_required
from hfkit.core.errors import ConfigError, HfkitError, Problem, nearest, reason
from hfkit.core.files import read_text
from hfkit.core.yaml import front_matter
from hfkit.data.source_files import builder_problem, check_files, name_problem

# The columns that a card of each form must map.
REQUIRED_COLUMNS = {
    "text": ("text",),
    "prompt_response": ("prompt", "response"),
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "ranking": ("prompt", "replies"),
    "prompts": ("prompt",),
}
# Columns that it may map: the chosen response's score minus the rejected one's; a rank or score of each response.
OPTIONAL_COLUMNS = {"preference": ("margin",), "ranking": ("ranks", "scores")}
# Columns that conversions read and no form has.
CONSUMED_COLUMNS = {"history": ("history",)}


@dataclass(kw_only=True)
class Keep:
    """A condition for keeping a row, with exactly one test."""

    column: str
    equals: Any = None
    one_of: list[Any] | None = None
    at_least: float | None = None
    at_most: float | None = None

    def tests(self) -> list[str]:
        """Return the names of its tests."""
        return [name for name in ("equals", "one_of", "at_least", "at_most") if getattr(self, name) is not None]

    @property
    def is_numeric(self) -> bool:
        """Whether it compares numbers."""
        return self.at_least is not None or self.at_most is not None

    def __call__(self, row: dict) -> bool:
        """Return whether a row is kept."""
        value = row[self.column]
        if self.equals is not None:
            return value == self.equals
        if self.one_of is not None:
            return value in self.one_of
        if value is None:
            return False
        try:
            return value >= self.at_least if self.at_least is not None else value <= self.at_most
        except TypeError as error:
            remedy = "at_least and at_most need numbers; equals and one_of accept any value"
            raise HfkitError(f"keep: the column {self.column!r} holds {value!r}: {remedy}") from error


@dataclass(kw_only=True)
class Recipe:
    """How the rows of a dataset are loaded: the `hfkit` block of a card."""

    path: str = field(metadata={"help": "Hub id, or the folder with the `files`"})
    form: Literal["text", "prompt_response", "messages", "preference", "ranking", "prompts"]
    columns: dict[str, str]
    splits: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    revision: str | None = None
    convert: list[Conversion] = field(default_factory=list)
    keep: list[Keep] = field(default_factory=list)
    replies: int | None = field(default=None, metadata={"help": "responses per ranking, for `hfkit plan`"})

    def problems(self) -> list[Problem]:
        """Return the contradictions between the keys."""
        problems = []
        if bool(self.splits) == bool(self.files):
            remedy = "set either splits ({hfkit's name: name in the dataset}) or files ({split: file})"
            problems.append(Problem("hfkit.splits", self.splits, remedy))
        for split, file in self.files.items():
            if remedy := name_problem(file):
                problems.append(Problem(f"hfkit.files.{split}", file, remedy))
        if remedy := builder_problem(self.path, bool(self.files)):
            problems.append(Problem("hfkit.path", self.path, remedy))
        needed, optional = REQUIRED_COLUMNS[self.form], OPTIONAL_COLUMNS.get(self.form, ())
        # This conversion creates the prompt from the other columns.
        made = {"prompt"} if "shared_prompt" in self.convert else set()
        missing = [column for column in needed if column not in self.columns and column not in made]
        missing += ["ranks or scores"] if self.form == "ranking" and not {*optional} & {*self.columns} else []
        system = [] if self.form == "text" else ["system"]
        consumed = [name for one in self.convert for name in CONSUMED_COLUMNS.get(one, ())]
        known = (*needed, *optional, *system, *consumed)
        unknown = [column for column in self.columns if column not in known]
        if missing or unknown:
            wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has no {', '.join(unknown)}"] * bool(unknown)
            problems.append(Problem("hfkit.columns", self.columns, f"the form {self.form} {' and '.join(wrong)}"))
        if self.replies is not None and (self.form != "ranking" or self.replies < 2):
            problems.append(Problem("hfkit.replies", self.replies, "only for the form ranking; expected at least 2"))
        for index, keep in enumerate(self.keep):
            if len(keep.tests()) != 1:
                remedy = "set exactly one of equals, one_of, at_least, at_most"
                problems.append(Problem(f"hfkit.keep[{index}]", keep.column, remedy))
        return problems


@dataclass(frozen=True)
class Card:
    """A data card: its metadata in the Hub's format, its text, and its recipe."""

    name: str
    file: Path
    data: Any
    text: str
    recipe: Recipe


def find_card(name: str) -> Path:
    """Return the file of a card: by name if it ships with hfkit, else by path.

    Raises:
        HfkitError: there is none; the message suggests the nearest name.
    """
    own = Path(name)
    file = own if own.suffix == ".md" else CARD_FOLDER / f"{name}.md"
    if not file.is_file():
        guess = nearest(name, card_names())
        hint = f"did you mean {guess}?" if guess else "run `hfkit data cards` to list them, or pass an .md file"
        raise HfkitError(f"there is no data card {name!r}; {hint}")
    return file


def load_card(name: str) -> Card:
    """Read a card and validate it.

    Raises:
        HfkitError: the card does not exist, or cannot be read.
        ConfigError: with all problems of its `hfkit` block.
    """
    file = find_card(name)
    state = file.stat()
    return _load_file(file, state.st_mtime_ns, state.st_size)


@cache
def _load_file(file: Path, *_state: int) -> Card:
    try:
        text = read_text(file)
        front_matter(text)  # refuses unsafe YAML before another reader parses it
        card = DatasetCard(text)
    except Exception as error:  # YAML can be invalid in many ways
        raise HfkitError(f"the data card {file} cannot be read: {reason(error)}") from error
    block = card.data.to_dict().get("hfkit")
    if not isinstance(block, dict):
        raise HfkitError(f"the data card {file} has no hfkit: block in its metadata; see data_cards/{TEMPLATE_CARD}.md")
    problems: list[Problem] = []
    values: dict = {}
    check_fields(Recipe, block, values, problems, "hfkit.")
    check_required(Recipe, values, problems, "hfkit.")
    recipe = None if problems else Recipe(**values)
    if problems := problems or recipe.problems():
        raise ConfigError(problems, str(file))
    return Card(file.stem, file, card.data, card.text.strip(), recipe)


def passes(row: dict, tests: list[Keep]) -> bool:
    """Return whether a row passes all of a card's conditions."""
    return all(test(row) for test in tests)


def recipe_of(entry) -> Recipe | None:
    """Return the recipe of an entry's card, with the entry's path and revision if set; None without a card."""
    if entry.card is None:
        return None
    recipe = load_card(entry.card).recipe
    changes = {name: value for name in ("path", "revision") if (value := getattr(entry, name)) is not None}
    return Recipe(**{**vars(recipe), **changes})


def source_split(recipe: Recipe, split: str, card: str) -> str:
    """Return a split with its name in the dataset: `test_sft[:10%]` for `test[:10%]`.

    Raises:
        HfkitError: the card has no such split.
    """
    known = recipe.splits or {name: name for name in recipe.files}

    def rename(match: re.Match) -> str:
        if match[0] not in known:
            raise HfkitError(f"the data card {card} has no split {match[0]!r}; it has {', '.join(known)}")
        return known[match[0]]

    return re.sub(r"[A-Za-z_][\w.-]*", rename, split)


def split_file(recipe: Recipe, split: str, card: str) -> tuple[Path, str]:
    """Return the file of a card's split, and the split within the file: `train[:10%]` for `test[:10%]`.

    Raises:
        HfkitError: the card has no such split, several are named, or the file lies outside the card's folder.
    """
    name, _, part = source_split(recipe, split, card).partition("[")
    if name not in recipe.files:
        raise HfkitError(f"the data card {card} has no split {split!r}: name one of {', '.join(recipe.files)}")
    file = Path(recipe.path) / recipe.files[name]
    if os.path.isfile(file):
        check_files(Path(recipe.path), [file])
    return file, f"train[{part}" if part else "train"
