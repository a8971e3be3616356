"""Read JSON and CSV files, alone or as those of a data set in a folder or on the Hub, so that text stays as written."""

from glob import escape
from pathlib import Path

import datasets
from datasets import Dataset

from hfkit.data.csv_rows import CSV_OPTIONS, csv_arguments
from hfkit.data.json_rows import exact_rows, json_shape
from hfkit.data.json_shapes import row_features


def read_files(kind: str, paths: list[Path], split: str) -> Dataset:
    """Return the rows of files of one type; the cells of CSV files are text.

    Args:
        kind: builder of `datasets`.
        split: `train`, with optional slicing.

    Raises:
        ValueError: JSON or CSV that cannot be read.
    """
    if kind == "json":
        shape = json_shape(paths)
        exact = exact_rows(paths, shape, split)
        if exact is not None:
            return exact
        options = {"features": row_features(shape)}
    else:
        options = file_options(kind, paths[0])
    return datasets.load_dataset(kind, data_files=[escape(str(path)) for path in paths], split=split, **options)


def file_options(kind: str, path: Path) -> dict:
    """Return the options with which `datasets` reads a file that is not JSON."""
    if kind == "csv" and path.stat().st_size:
        return csv_arguments(path)
    return {"encoding": "utf-8-sig"} if kind == "text" else {}


def read_data_set(source: dict) -> tuple[Dataset, bool]:
    """Return the rows of a data set in a folder or on the Hub, and whether they are CSV, whose cells are text.

    Args:
        source: arguments of `load_dataset`.
    """
    builder = datasets.load_dataset_builder(**{name: value for name, value in source.items() if name != "split"})
    name, is_part, part = source["split"].partition("[")
    files = (builder.config.data_files or {}).get(name)
    if builder.name == "csv" and files and builder.config.sep == ",":
        if builder.info.features is not None:
            return datasets.load_dataset(**source, **CSV_OPTIONS), True
        return read_files("csv", downloaded(files), f"train{is_part}{part}"), True
    if builder.name == "json" and files and builder.config.field is None:
        paths = downloaded(files)
        rows = exact_rows(paths, json_shape(paths), f"train{is_part}{part}")
        if rows is not None:
            return rows, False
    return datasets.load_dataset(**source), False


def downloaded(files: list[str]) -> list[Path]:
    """Return the paths of a data set's files on this machine, unpacked."""
    return [Path(path) for path in datasets.DownloadManager().download_and_extract([*files])]
