"""Reads JSON and CSV files, alone or of a dataset in a folder or on the Hub, without changing their text."""

import os
from collections import defaultdict
from glob import escape
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from hfkit.core.file_types import COMPRESSED, SUFFIXES, file_type, suffix_of
from hfkit.core.limits import UnsafeFileError
from hfkit.data.compression import unpacked
from hfkit.data.csv_rows import CSV_OPTIONS, csv_arguments
from hfkit.data.json_rows import check_lines, exact_rows, json_shape
from hfkit.data.json_shapes import row_features
from hfkit.data.source_files import builder_names, builder_problem, check_builder, check_declared

SEPARATORS = (",", "\t")
"""The supported separators of cells, in `.csv` and in `.tsv` files."""


def read_files(kind: str, paths: list[Path], split: str, separator: str | None = None) -> Dataset:
    """Return the rows of files of one type; the cells of CSV files are text.

    Args:
        kind: builder of `datasets`.
        split: `train`, with optional slicing.
        separator: separator of cells in CSV files; None: by the name of the first file.

    Raises:
        ValueError: JSON or CSV that cannot be read.
    """
    paths = [*map(unpacked, paths)]
    if kind == "json":
        shape = json_shape(paths)
        exact = exact_rows(paths, shape, split)
        if exact is not None:
            return exact
        options = {"features": row_features(shape)}
    else:
        options, *_ = [file_options(kind, path, separator) for path in paths]
    rows = datasets.load_dataset(kind, data_files=[escape(str(path)) for path in paths], split=split, **options)
    return without_empty_lines(rows) if kind == "text" else rows


def without_empty_lines(rows: Dataset) -> Dataset:
    """Return the lines of a text file that are not empty: empty lines separate paragraphs and are not rows."""
    lengths = [pc.binary_length(column) for column in rows.data.column("text").chunks]
    filled = np.flatnonzero(np.concatenate([np.asarray(one) for one in lengths]) if lengths else [])
    return rows if len(filled) == len(rows) else rows.select(filled)


def file_options(kind: str, path: Path, separator: str | None = None) -> dict:
    """Return the options for `datasets` to read a file that is not JSON.

    Raises:
        LimitError: a line of text or a CSV row is too long.
    """
    if kind == "text":
        check_lines(path)
    if kind == "csv" and path.stat().st_size:
        return csv_arguments(path, separator or ("\t" if ".tsv" in path.suffixes else ","))
    return {"encoding": "utf-8-sig"} if kind == "text" else {}


def read_dataset(source: dict) -> tuple[Dataset, bool]:
    """Return the rows of a dataset in a folder or on the Hub, and whether they come from CSV, whose cells are text.

    Args:
        source: arguments of `load_dataset`.

    Raises:
        ValueError: a folder has files of several types.
    """
    source = checked_source(source)
    builder = open_builder(source)
    name, is_part, part = source["split"].partition("[")
    files, split = (builder.config.data_files or {}).get(name), f"train{is_part}{part}"
    if builder.name == "csv" and files and builder.config.sep in SEPARATORS:
        if builder.info.features is not None:
            return datasets.load_dataset(**source, **CSV_OPTIONS), True
        return read_files("csv", downloaded(files), split, builder.config.sep), True
    if builder.name == "json" and files and builder.config.field is None:
        paths = downloaded(files)
        rows = exact_rows(paths, json_shape(paths), split)
        if rows is not None:
            return rows, False
    if files and (builder.name == "text" or all(map(is_packed, files))):
        return read_files(builder.name, downloaded(files), split), False
    return datasets.load_dataset(**source), False


def checked_source(source: dict) -> dict:
    """Return the arguments of `load_dataset` for a dataset that declares no file outside it.

    Raises:
        UnsafeFileError: it declares one, or its path is the name of a builder.
        ValueError: a folder has files of several types.
    """
    path, files = source["path"], source.get("data_files")
    if problem := builder_problem(path, bool(files)):
        raise UnsafeFileError(f"{path!r}: {problem}")
    if path in builder_names() and not os.path.exists(path):
        return source
    if not check_declared(path, source.get("revision")) and not files:
        check_types_of_files(Path(path))
    return source | {"path": os.path.join(".", path)} if path in builder_names() else source  # a folder with this name


def open_builder(source: dict) -> datasets.DatasetBuilder:
    """Return the builder of a dataset, whose files must lie in it.

    Raises:
        UnsafeFileError: a file lies outside, or the builder is not a supported one.
    """
    builder = datasets.load_dataset_builder(**{name: value for name, value in source.items() if name != "split"})
    check_builder(builder, Path(source["path"]) if os.path.isdir(source["path"]) else Path())
    return builder


def check_types_of_files(folder: Path) -> None:
    """Raise ValueError if a folder has no readable file, or several types, of which `datasets` would read only one."""
    types = defaultdict(list)
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if suffix_of(path.name) and path.name != "dataset_infos.json" and os.path.isfile(path) and not is_hidden:
            types[file_type(path)].append(str(name))
    if not types:
        raise ValueError(f"it has no {SUFFIXES} file, compressed ({' or '.join(COMPRESSED)}) or not")
    if len(types) > 1:
        found = ", ".join(names[0] for names in types.values())
        raise ValueError(f"its files have several types: {found}; name a file, or a folder with files of one type")


def is_packed(file: str) -> bool:
    """Return whether a file on this machine is compressed."""
    path = Path(file)
    return path.suffix in COMPRESSED and path.is_file()


def downloaded(files: list[str]) -> list[Path]:
    """Return the paths of a dataset's unpacked files on this machine."""
    manager = datasets.DownloadManager()
    return [unpacked(Path(manager.download(file))) for file in [*files]]
