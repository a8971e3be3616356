"""Select the files of a dataset that a push uploads, with the subset, split and rows of each."""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from datasets import Dataset

from hfkit.core.errors import HfkitError, Problem
from hfkit.core.file_types import SUFFIXES, suffix_of, without_compression
from hfkit.core.files import RECORD
from hfkit.core.hub_files import DOCUMENTS, matches
from hfkit.core.limits import UnsafeFileError
from hfkit.data.cards import Card
from hfkit.data.files import read_rows
from hfkit.data.source_files import check_files, is_saved
from hfkit.hub.model_files import group_by_folder, irregular_file, list_files

# Words in a file name that name its split, as the Hub reads them.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
DEFAULT_SUBSET = "default"


@dataclass(frozen=True)
class DataFile:
    """A data file: its name in the repository, and its subset, whose splits all have the same columns."""

    path: str
    subset: str
    split: str
    rows: Dataset

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.rows.column_names)


@dataclass
class Selection:
    """The file names of a dataset: data files, documents, what is left out; and the problems."""

    data: list[str]
    documents: list[str]
    left_out: list[str]
    problems: list[Problem]


def select_dataset_files(folder: Path, card: Card | None = None) -> Selection:
    """Select the data files and documents of a folder, or the files that a data card names."""
    if card is not None:
        return select_named_files(folder, card)
    data, documents, left_out, problems = [], [], [], []
    for name in list_files(folder):
        path, is_hidden = folder / name, any(part.startswith(".") for part in PurePath(name).parts)
        is_data = suffix_of(name) and name != "dataset_infos.json"  # metadata of older versions of `datasets`
        selected = data if is_data else documents if matches(name, DOCUMENTS) else None
        if is_hidden or selected is None:
            left_out.append(name)
        elif path.is_symlink() or not path.is_file():
            problems.append(irregular_file(path))
        else:
            selected.append(name)
    if (folder / RECORD).is_file():
        data, remedy = [], f"push it with `hfkit push {folder} REPO_ID`"
        problems.append(Problem(str(folder), "a run, not a dataset", remedy))
    elif is_saved(folder):
        data, remedy = [], "write each split to a file with to_parquet or to_json"
        problems.append(Problem(str(folder), "written by save_to_disk", remedy))
    elif not data:
        problems.append(Problem(str(folder), "no data", f"expected files that end in {SUFFIXES}"))
    return Selection(data, documents, group_by_folder(left_out), problems)


def select_named_files(folder: Path, card: Card) -> Selection:
    """Select the files that a data card names."""
    names, problems = [], []
    for name in card.recipe.files.values():
        if (folder / name).is_symlink():
            problems.append(irregular_file(folder / name))
        elif not (folder / name).is_file():
            problems.append(Problem(str(folder / name), "no such file", f"the data card {card.name} names it"))
        else:
            try:
                check_files(folder, [folder / name])
                names.append(name)
            except UnsafeFileError as error:
                problems.append(Problem(name, "not in the folder", str(error)))
    return Selection(names, [], [], problems)


def subset_and_split(name: str) -> tuple[str, str]:
    """Return (subset, split) of a file name.

    `pairs_test.jsonl` and `pairs/test.jsonl` are ("pairs", "test"), `data/train-00000-of-00002.parquet` is ("default",
    "train").
    """
    path = PurePath(without_compression(name))
    words = re.split(r"[-_.]", SHARD.sub("", path.stem))
    index = next((index for index in (-1, 0) if words[index] in SPLIT_NAMES), None)
    split = "train" if index is None else SPLIT_NAMES[words.pop(index)]
    folders = [part for part in path.parts[:-1] if part != "data"]
    return "-".join([*folders, *words]) or DEFAULT_SUBSET, split


def load_data_files(folder: Path, names: list[str], card: Card | None) -> tuple[list[DataFile], list[Problem]]:
    """Load data files, and return them with the problems of those that cannot be loaded.

    Subset and split are those of a data card, or of the file names; a single subset is the default one.
    """
    files, problems = [], []
    splits = {file: (DEFAULT_SUBSET, split) for split, file in card.recipe.files.items()} if card else {}
    for name in names:
        try:
            rows, _ = read_rows({"path": str(folder / name), "split": "train"})
            files.append(DataFile(name, *(splits.get(name) or subset_and_split(name)), rows))
        except HfkitError as error:
            problems.append(Problem(name, "not readable", str(error)))
    files = split_subsets(files)
    if len({file.subset for file in files}) == 1:
        files = [replace(file, subset=DEFAULT_SUBSET) for file in files]
    return files, problems


def split_subsets(files: list[DataFile]) -> list[DataFile]:
    """Return the files; a split whose columns differ from those of its subset gets its own subset."""
    columns: dict[str, tuple[str, ...]] = {}
    result = []
    for file in sorted(files, key=lambda file: (file.subset, file.split != "train", file.path)):
        if columns.setdefault(file.subset, file.columns) != file.columns:
            file = replace(file, subset=f"{file.subset}_{file.split}")
            columns.setdefault(file.subset, file.columns)
        result.append(file)
    return result
