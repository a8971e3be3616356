"""The dataset card of a dataset on the Hub: subsets and splits, what a row looks like, how to load it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from huggingface_hub import DatasetCardData

from hfkit.data.cards import REQUIRED_COLUMNS, Recipe
from hfkit.hub.cards.hand_edits import regenerate_card
from hfkit.hub.cards.licenses import NO_LICENSE
from hfkit.hub.cards.markdown import fenced, markdown_table
from hfkit.hub.dataset_files import DEFAULT_SUBSET, DataFile

FORM_TEXTS = {
    "preference": "Preference pairs: a prompt with a chosen and a rejected response.",
    "ranking": "Prompts with several responses each, ranked or scored.",
    "messages": "Conversations.",
    "prompt_response": "Prompts with one response per prompt.",
    "prompts": "Prompts without responses.",
    "text": "Plain text.",
}
SIZES = {
    10**power: name
    for power, name in enumerate(("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M"), start=3)
}
LONGEST = 300
"""Characters of a text in the row that is shown."""


@dataclass(frozen=True)
class DatasetContent:
    """What a dataset card describes; the recipe is that of the data card that the dataset is pushed from, if any."""

    repo_id: str
    files: list[DataFile]
    recipe: Recipe | None = None

    def subsets(self) -> dict[str, dict[str, list[DataFile]]]:
        """Return the files by subset and split, the default subset first."""
        found: dict[str, dict[str, list[DataFile]]] = {}
        for file in sorted(self.files, key=lambda file: file.subset != DEFAULT_SUBSET):
            found.setdefault(file.subset, {}).setdefault(file.split, []).append(file)
        return found


def dataset_card(existing: str | None, content: DatasetContent) -> str:
    """Return the card, with what people edited in the existing one.

    Raises:
        HfkitError: the metadata of the existing card cannot be read.
    """
    return regenerate_card(existing, dataset_metadata(content), partial(dataset_card_body, content), keep_unmarked=True)


def dataset_metadata(content: DatasetContent) -> dict:
    """Return the metadata that the Hub reads; with the recipe, if any, so that the card is a data card too."""
    rows = sum(len(file.rows) for file in content.files)
    forms = {form_of(splits, content.recipe) for splits in content.subsets().values()} - {None}
    recipe = {key: value for key, value in vars(content.recipe).items() if value} if content.recipe else None
    return DatasetCardData(
        task_categories=["text-generation"],
        size_categories=[next((name for size, name in SIZES.items() if rows < size), "100M<n<1B")],
        tags=["hfkit", *sorted(forms)],
        configs=[
            {
                "config_name": subset,
                **({"default": True} if subset == DEFAULT_SUBSET else {}),
                "data_files": [
                    {"split": split, "path": paths[0] if len(paths) == 1 else paths}
                    for split, files in splits.items()
                    for paths in [[file.path for file in files]]
                ],
            }
            for subset, splits in content.subsets().items()
        ],
        hfkit=recipe and {**recipe, "path": content.repo_id},
    ).to_dict()


def form_of(splits: dict[str, list[DataFile]], recipe: Recipe | None = None) -> str | None:
    """Return the form of a subset's rows, by its columns; None if they fit no form."""
    if recipe is not None:
        return recipe.form
    columns = {*next(iter(splits.values()))[0].columns}
    columns |= {"prompt"} if {"chosen", "rejected"} <= columns else set()  # what both begin with
    fitting = [form for form, needed in REQUIRED_COLUMNS.items() if {*needed} <= columns]
    return max(fitting, key=lambda form: len(REQUIRED_COLUMNS[form]), default=None)


def dataset_card_body(content: DatasetContent, metadata: dict) -> str:
    """Return the generated text of a card with this metadata, which may be edited."""
    forms = dict.fromkeys(form_of(splits, content.recipe) for splits in content.subsets().values())
    parts = [f"# {content.repo_id.split('/')[-1]}", *(FORM_TEXTS[form] for form in forms if form)]
    parts += [] if "license" in metadata else [NO_LICENSE]
    parts += ["## Rows", rows_table(content), "## Usage", load_dataset_lines(content)]
    return "\n\n".join(parts)


def rows_table(content: DatasetContent) -> str:
    """Return the table of files with their rows and columns, and the first row."""
    lines = []
    for file in content.files:
        columns = ", ".join(f"`{name}`" for name in file.columns)
        lines.append((file.subset, file.split, f"{len(file.rows):,}", columns, f"`{file.path}`"))
    first = next((file for file in content.files if len(file.rows)), None)
    table = markdown_table(("subset", "split", "rows", "columns", "file"), lines)
    if first is None:
        return table
    row = json.dumps(shorten_texts(first.rows[0]), indent=2, ensure_ascii=False, default=str)
    return "\n\n".join([table, f"The first row of `{first.path}`, with long texts truncated:", fenced(row, "json")])


def shorten_texts(value: Any) -> Any:
    """Return a row, or a part of it, with texts of at most `LONGEST` characters."""
    if isinstance(value, dict):
        return {key: shorten_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten_texts(item) for item in value]
    return f"{value[:LONGEST]}..." if isinstance(value, str) and len(value) > LONGEST else value


def load_dataset_lines(content: DatasetContent) -> str:
    """Return code that loads the dataset with `datasets`, and entries for a config of hfkit."""
    lines = ["from datasets import load_dataset", ""]
    for subset, splits in content.subsets().items():
        name = "" if subset == DEFAULT_SUBSET else f'"{subset}", '
        lines.append(f'rows = load_dataset("{content.repo_id}", {name}split="{next(iter(splits))}")')
    code = fenced("\n".join([*lines, "print(rows[0])"]), "python")
    return "\n\n".join([code, *config_sections(content)])


def config_sections(content: DatasetContent) -> list[str]:
    """Return how a config of hfkit names the dataset: by its card, or each subset of a known form by its path."""
    if content.recipe:
        download = f"hf download {content.repo_id} README.md --repo-type dataset --local-dir ."
        entries = config_entries("card: README.md", content.recipe.files)
        return ["This README.md is also a data card of hfkit:", fenced(download, "bash"), entries]
    entries = [
        config_entries(f"path: {content.repo_id}" + ("" if subset == DEFAULT_SUBSET else f", name: {subset}"), splits)
        for subset, splits in content.subsets().items()
        if form_of(splits)
    ]
    return ["In a config of hfkit:", *entries] if entries else []


def config_entries(source: str, splits: Iterable[str]) -> str:
    """Return `datasets` and `eval_datasets` of a config for the splits of a source; "" without known splits."""
    keys = {"train": "datasets", "validation": "eval_datasets", "test": "eval_datasets"}
    last = {key: split for split, key in keys.items() if split in splits}
    lines = [f"{key}: [{{{source}{'' if split == 'train' else f', split: {split}'}}}]" for key, split in last.items()]
    return fenced("\n".join(lines), "yaml") if lines else ""
