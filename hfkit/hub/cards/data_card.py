"""The card of a data set on the Hub: which files are which subset and split, what a row is, how to load it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from huggingface_hub import DatasetCardData

from hfkit.data.cards import REQUIRED_COLUMNS, Recipe
from hfkit.hub.cards.licenses import NO_LICENSE
from hfkit.hub.cards.markdown import blocks, fenced, markdown_table
from hfkit.hub.cards.marks import renewed
from hfkit.hub.data_files import DEFAULT, DataFile

ABOUT = {
    "preference": "Pairs of replies, of which one was preferred: for a reward model.",
    "ranking": "Prompts with several replies, ranked or scored: for a reward model.",
    "messages": "Conversations: for supervised fine-tuning.",
    "prompt_response": "Prompts and replies: for supervised fine-tuning.",
    "prompts": "Prompts: for PPO.",
    "text": "Plain text: for a tokenizer and for pretraining.",
}
SIZES = {
    10**power: name
    for power, name in enumerate(("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M"), start=3)
}
LONGEST = 300
"""Characters of a text of the row that is shown."""


@dataclass(frozen=True)
class DataSet:
    """What a card of a data set tells of.

    Attributes:
        recipe: of the data card that it was pushed from, if there is one.
    """

    repo_id: str
    tables: list[DataFile]
    recipe: Recipe | None = None

    def subsets(self) -> dict[str, dict[str, list[DataFile]]]:
        """Tables by subset and split, the default subset first."""
        found: dict[str, dict[str, list[DataFile]]] = {}
        for one in sorted(self.tables, key=lambda one: one.subset != DEFAULT):
            found.setdefault(one.subset, {}).setdefault(one.split, []).append(one)
        return found


def data_card(existing: str | None, data: DataSet) -> str:
    """The card, with what was written by hand into an earlier one.

    Raises:
        HfkitError: the front matter of the existing card cannot be read.
    """
    return renewed(existing, data_front_matter(data), partial(data_card_body, data), by_person=True)


def data_front_matter(data: DataSet) -> dict:
    """What the Hub reads of a data set; the recipe goes along, so that the card is a data card wherever it is."""
    rows = sum(len(one.rows) for one in data.tables)
    forms = {form_of(splits, data.recipe) for splits in data.subsets().values()} - {None}
    recipe = {key: value for key, value in vars(data.recipe).items() if value} if data.recipe else None
    return DatasetCardData(
        task_categories=["text-generation"],
        size_categories=[next((name for size, name in SIZES.items() if rows < size), "100M<n<1B")],
        tags=["hfkit", *sorted(forms)],
        configs=[
            {
                "config_name": subset,
                **({"default": True} if subset == DEFAULT else {}),
                "data_files": [
                    {"split": split, "path": paths[0] if len(paths) == 1 else paths}
                    for split, tables in splits.items()
                    for paths in [[one.path for one in tables]]
                ],
            }
            for subset, splits in data.subsets().items()
        ],
        hfkit=recipe and {**recipe, "path": data.repo_id},
    ).to_dict()


def form_of(splits: dict[str, list[DataFile]], recipe: Recipe | None = None) -> str | None:
    """The form of a subset's rows, by its columns."""
    if recipe is not None:
        return recipe.form
    columns = {*next(iter(splits.values()))[0].columns}
    columns |= {"prompt"} if {"chosen", "rejected"} <= columns else set()  # what both replies begin with
    fitting = [form for form, needed in REQUIRED_COLUMNS.items() if {*needed} <= columns]
    return max(fitting, key=lambda form: len(REQUIRED_COLUMNS[form]), default=None)


def data_card_body(data: DataSet, front: dict) -> str:
    """The generated part of the card."""
    forms = dict.fromkeys(form_of(splits, data.recipe) for splits in data.subsets().values())
    parts = [f"# {data.repo_id.split('/')[-1]}", *(ABOUT[form] for form in forms if form)]
    parts += [] if "license" in front else [NO_LICENSE]
    parts += ["## Rows", rows_section(data), "## Load it", loading_lines(data)]
    return "\n\n".join(parts)


def rows_section(data: DataSet) -> str:
    """How many rows there are of which columns, in which file, and one of them."""
    lines = [
        (one.subset, one.split, f"{len(one.rows):,}", ", ".join(f"`{name}`" for name in one.columns), f"`{one.path}`")
        for one in data.tables
    ]
    first = next((one for one in data.tables if len(one.rows)), None)
    head = markdown_table(("subset", "split", "rows", "columns", "file"), lines)
    if first is None:
        return head
    row = json.dumps(shortened(first.rows[0]), indent=2, ensure_ascii=False, default=str)
    told = f"The first of `{first.path}`, long texts cut:"
    return "\n\n".join([head, told, fenced(row, "json")])


def shortened(value: Any) -> Any:
    """A row with no text longer than `LONGEST`."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return f"{value[:LONGEST]}..." if isinstance(value, str) and len(value) > LONGEST else value


def loading_lines(data: DataSet) -> str:
    """Lines that load it, with `datasets` and in a config of hfkit."""
    lines = ["from datasets import load_dataset", ""]
    for subset, splits in data.subsets().items():
        name = "" if subset == DEFAULT else f'"{subset}", '
        lines.append(f'rows = load_dataset("{data.repo_id}", {name}split="{next(iter(splits))}")')
    return blocks([*lines, "print(rows[0])"], *in_configs(data))


def in_configs(data: DataSet) -> list[str]:
    """How it stands in a config of hfkit: by its card, or each subset whose form is known by its path."""
    if data.recipe:
        fetched = f"hf download {data.repo_id} README.md --repo-type dataset --local-dir ."
        entries = [config_entries("card: README.md", data.recipe.files)]
        return ["This file is a data card of hfkit:", fenced(fetched, "bash"), *entries]
    entries = [
        config_entries(f"path: {data.repo_id}" + ("" if subset == DEFAULT else f", name: {subset}"), splits)
        for subset, splits in data.subsets().items()
        if form_of(splits)
    ]
    return ["In a config of hfkit:", *entries] if entries else []


def config_entries(named: str, splits: Iterable[str]) -> str:
    """Entries of a config for the splits that a stage takes without being told more."""
    keys = {"train": "datasets", "validation": "eval_datasets", "test": "eval_datasets"}
    keys = {split: key for split, key in keys.items() if split in splits}
    last = {key: split for split, key in keys.items()}
    lines = [f"{key}: [{{{named}{'' if split == 'train' else f', split: {split}'}}}]" for key, split in last.items()]
    return fenced("\n".join(lines), "yaml") if lines else ""
