"""The files of a data set that goes to the Hub: which ones, the subset and split of each, and what is in them."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from datasets import Dataset

from hfkit.core.errors import HfkitError, Problem
from hfkit.core.file_types import BUILDERS
from hfkit.core.files import RECORD
from hfkit.core.hub_patterns import DOCUMENTS, is_listed
from hfkit.data.cards import Card
from hfkit.data.files import read_rows
from hfkit.hub.files import LINKED, SECRET_FOUND, SECRETS, grouped, names_in

# Words of a file's name that say which split it is, as the Hub takes them.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
DEFAULT = "default"


@dataclass(frozen=True)
class DataFile:
    """A data file.

    Attributes:
        path: its name in the repository.
        subset, split: by which it is loaded; the splits of a subset have the same columns.
        rows: all that is in it.
    """

    path: str
    file: Path
    subset: str
    split: str
    rows: Dataset

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.rows.column_names)


def names_of(folder: Path) -> tuple[list[str], list[str], list[str], list[Problem]]:
    """Names of data files, of files that people read, what else is there, and what speaks against an upload."""
    data, read_by_people, left_out, problems = [], [], [], []
    for name in names_in(folder):
        path, is_hidden = folder / name, any(part.startswith(".") for part in PurePath(name).parts)
        known = data if is_data(name) else read_by_people if is_listed(name, DOCUMENTS) else None
        if is_hidden or known is None:
            left_out.append(name)
        elif path.is_symlink() or not path.is_file():
            problems.append(Problem(str(path), "not a file of this folder", LINKED))
        else:
            known.append(name)
    if (folder / RECORD).is_file():
        data, remedy = [], f"push it with `hfkit push {folder} REPO_ID`"
        problems.append(Problem(str(folder), "a run, and no data set", remedy))
    elif any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        data, remedy = [], "write its splits with to_parquet or to_json, a file each"
        problems.append(Problem(str(folder), "written by save_to_disk", remedy))
    elif not data:
        problems.append(Problem(str(folder), "no data", f"expected files that end in {', '.join(BUILDERS)}"))
    return data, read_by_people, grouped(left_out), problems


def names_in_card(card: Card) -> tuple[list[str], list[str], list[str], list[Problem]]:
    """As `names_of`, for the files that a data card names."""
    folder, names, problems = Path(card.recipe.path), [], []
    for name in card.recipe.files.values():
        if (folder / name).is_symlink():
            problems.append(Problem(str(folder / name), "not a file of this folder", LINKED))
        elif not (folder / name).is_file():
            problems.append(Problem(str(folder / name), "not there", f"the data card {card.name} names it"))
        else:
            names.append(name)
    return names, [], [], problems


def is_data(name: str) -> bool:
    """Whether a file is one that `datasets` reads, by its name; in `dataset_infos.json` it once kept its own notes."""
    return name != "dataset_infos.json" and any(name.removesuffix(".gz").endswith(suffix) for suffix in BUILDERS)


def subset_and_split(name: str) -> tuple[str, str]:
    """(subset, split) by a file's name: `pairs_test.jsonl`, `pairs/test.jsonl`, `data/train-00000-of-00002.parquet`."""
    path = PurePath(name.removesuffix(".gz"))
    words = re.split(r"[-_.]", SHARD.sub("", path.stem))
    place = next((place for place in (-1, 0) if words[place] in SPLIT_NAMES), None)
    split = "train" if place is None else SPLIT_NAMES[words.pop(place)]
    folders = [part for part in path.parts[:-1] if part != "data"]
    return "-".join([*folders, *words]) or DEFAULT, split


def tables_in(folder: Path, places: dict[str, tuple[str, str]]) -> tuple[list[DataFile], list[Problem]]:
    """The data files, read, with what is wrong with them; a single subset is the default one.

    Args:
        places: subset and split of each file by name.
    """
    tables, problems = [], []
    for name, (subset, split) in places.items():
        try:
            rows = read_rows({"path": str(folder / name), "split": "train"})
            tables.append(DataFile(name, folder / name, subset, split, rows))
        except HfkitError as error:
            problems.append(Problem(name, "as it is", str(error)))
    tables = parted(tables)
    if len({table.subset for table in tables}) == 1:
        tables = [replace(table, subset=DEFAULT) for table in tables]
    return tables, problems


def parted(tables: list[DataFile]) -> list[DataFile]:
    """With a subset of its own for each split whose columns are others than those of its subset: it has one set."""
    columns: dict[str, tuple[str, ...]] = {}
    told = []
    for table in sorted(tables, key=lambda table: (table.subset, table.split != "train", table.path)):
        if columns.setdefault(table.subset, table.columns) != table.columns:
            table = replace(table, subset=f"{table.subset}_{table.split}")
            columns.setdefault(table.subset, table.columns)
        told.append(table)
    return told


def secrets_in(tables: Iterable[DataFile], token: str | None) -> list[Problem]:
    """Rows that hold what looks like a token, or the very token that is used now; they are named and not shown."""
    problems = []
    for table in tables:
        for start, batch in enumerate(table.rows.iter(1000)):
            text = json.dumps(batch, default=str).encode()
            if SECRETS.search(text) or (token and token.encode() in text):
                told = f"among rows {1000 * start + 1:,} to {1000 * start + len(next(iter(batch.values()))):,}"
                problems.append(Problem(table.path, told, SECRET_FOUND))
                break
    return problems
