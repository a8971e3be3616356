"""Stores rows that Python code passes as objects: in the cache, named by their content, and read like a file.

So a run on them is recorded, resumed, evaluated and validated like a run on a file.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import datasets
from datasets import Dataset

from hfkit.core.errors import HfkitError
from hfkit.core.files import write_text
from hfkit.core.temporary import remove_leftovers, temporary_folder
from hfkit.data.caching import content_hash
from hfkit.data.progress import progress_bars
from hfkit.data.source_files import is_saved
from hfkit.records.given_rows import GIVEN, STORED_FOLDER, is_given


def is_rows(value: object) -> bool:
    """Return whether a value is rows: a `Dataset`, or a list of mappings of which none names a path or a card."""
    if isinstance(value, Dataset):
        return True
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    return is_list and all(isinstance(row, dict) and not {"path", "card"} & {*row} for row in value)


def store_rows(rows: Dataset | list[dict]) -> str:
    """Return the path of these rows in the cache of `datasets`, named by their hash: JSON lines, or a saved dataset.

    Raises:
        HfkitError: a row holds values that JSON does not support, or there are no rows.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE, *STORED_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if isinstance(rows, Dataset):
        return str(store_dataset(rows, folder))
    text = "".join(json_line(index, row) for index, row in enumerate(rows))
    file = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    if not file.is_file() or file.stat().st_size != len(text.encode()):
        write_text(file, text)
    return str(file)


def name_in_messages(path: str | Path) -> str:
    """Return how messages name the dataset at a path: rows that Python code passed have no path that a user knows."""
    return GIVEN if is_given(str(path)) else str(path)


def path_in_yaml(name: str) -> str:
    """Return the `path` of a dataset in an example of `datasets`, from its name in messages."""
    return "ROWS" if name == GIVEN else name


def store_dataset(rows: Dataset, folder: Path) -> Path:
    """Return the folder in `folder` to which `save_to_disk` writes the rows, now or in an earlier call."""
    target = folder / content_hash(rows)[:16]
    if not is_saved(target):
        with temporary_folder(target) as unfinished:
            with progress_bars(len(rows)):
                rows.save_to_disk(unfinished)
            if target.exists() and not is_saved(target):  # a damaged cache
                shutil.rmtree(target)
            with suppress(OSError):  # another process has stored them
                os.replace(unfinished, target)
    return target


def json_line(index: int, row: dict) -> str:
    """Return a row as one line of JSON."""
    try:
        return json.dumps(row, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise HfkitError(
            f"row {index}: {error}: rows can hold text, numbers, True, False, None, lists and dicts"
        ) from error
