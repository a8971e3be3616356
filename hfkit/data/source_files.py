"""Validates the files that an untrusted dataset names: they must lie in its folder or on the Hub, in known formats.

`datasets` reads whatever a card or a README names: a URL, any file on this machine, or, with some builders, code.
"""

import os
import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePath

import datasets
from datasets import packaged_modules

from hfkit.core.file_types import COMPRESSED, FILE_TYPES, SUFFIXES, suffix_of
from hfkit.core.files import read_json_mapping, read_text
from hfkit.core.hub_fetch import fetch_file
from hfkit.core.hub_ids import HUB_ID
from hfkit.core.limits import UnsafeFileError
from hfkit.core.links import require_own_file
from hfkit.core.yaml import front_matter, parse_yaml
from hfkit.data.messages import iter_strings

BUILDERS = (*dict.fromkeys(FILE_TYPES.values()),)
"""The supported builders of `datasets`: they read data and run no code."""
CACHE = "cache"
"""The builder that reads a dataset of the Hub from the cache, without a connection."""
DECLARATIONS = ("README.md", ".huggingface.yaml")
"""The files in which a dataset declares its files; the first one does so in its front matter."""
STATE, SAVED_SPLITS = datasets.config.DATASET_STATE_JSON_FILENAME, datasets.config.DATASETDICT_JSON_FILENAME
"""The files that mark a folder written by `save_to_disk`: of one split, of several."""


@cache
def builder_names() -> frozenset[str]:
    """Return the names of all builders that ship with `datasets`: as a path, they do not name a dataset."""
    return frozenset(module.name for module in pkgutil.iter_modules(packaged_modules.__path__))


def builder_problem(path: str, has_files: bool) -> str | None:
    """Return why a dataset's path is invalid because it names a builder, or None."""
    if path not in builder_names() or os.path.exists(path) or (path in BUILDERS and has_files):
        return None
    return f"the name of a builder of `datasets`, not of a dataset: name the files ({SUFFIXES})"


def name_problem(name: str) -> str | None:
    """Return why a file name or pattern could lead outside both its folder and the Hub, or None."""
    endpoint = datasets.config.HF_ENDPOINT.rstrip("/")
    if "::" not in name and name.startswith(("hf://", f"{endpoint}/")):
        return None
    if "::" in name or re.match(r"\w[\w+.-]*:/", name):
        return "hfkit reads no URLs outside the Hub: download the file and name it"
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts or name.startswith("~"):
        return "name a file in `path`"
    return None


def check_declared(path: str, revision: str | None = None) -> bool:
    """Return whether a dataset, in a folder or on the Hub, declares its files.

    Raises:
        UnsafeFileError: it declares files outside it, or the declaration is too large.
    """
    declares = False
    for name in DECLARATIONS:
        file = Path(path) / name
        if os.path.lexists(path):
            if not os.path.lexists(file):
                continue
            check_files(Path(path), [file])
        else:
            file = fetch_file(path, name, revision or "main", repo_type="dataset") if HUB_ID.match(path) else None
        text = read_text(file) if file else ""
        declared = front_matter(text) if name.endswith(".md") else parse_yaml(text)
        configs = declared.get("configs") if isinstance(declared, dict) else None
        declares = declares or bool(configs)
        for value in names_in(configs):
            if problem := name_problem(value):
                raise UnsafeFileError(f"{name}: configs: {value!r} -> {problem.replace('`path`', path)}")
    return declares


def names_in(configs: object) -> Iterator[str]:
    """Yield the names of files and folders in the `configs` of a dataset's declaration."""
    for config in configs if isinstance(configs, list) else []:
        for key in ("data_files", "data_dir"):
            yield from iter_strings(config.get(key) if isinstance(config, dict) else None)


def check_builder(builder: datasets.DatasetBuilder, folder: Path) -> None:
    """Raise UnsafeFileError if the builder of a dataset is not in `BUILDERS`, or its files lie outside `folder`."""
    if builder.name not in (*BUILDERS, CACHE):
        raise UnsafeFileError(f"its files need the builder {builder.name} of `datasets`: save them as {SUFFIXES}")
    files = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
    for file in files:
        if not suffix_of(file):
            raise UnsafeFileError(f"{file} has an unsupported type: save it as {SUFFIXES} (or {COMPRESSED[0]})")
    check_files(folder, [file for file in files if not file.startswith("hf://")])


def check_files(folder: Path, files: Iterable[str | Path]) -> None:
    """Raise UnsafeFileError if a path is not a file, or lies outside the folder after links are resolved.

    The folder itself may be a link, and files of a snapshot in the Hub's cache are links to its blobs.
    """
    for file in map(Path, files):
        if not file.is_file():
            raise UnsafeFileError(f"{file} is not a file")
        require_own_file(file, folder)


def is_saved(path: Path) -> bool:
    """Return whether a folder is a dataset written by `save_to_disk`."""
    return (path / STATE).is_file() or (path / SAVED_SPLITS).is_file()


def check_saved(folder: Path) -> None:
    """Raise UnsafeFileError if a dataset written by `save_to_disk` names files outside its folder."""
    splits = (read_json_mapping(folder / SAVED_SPLITS) or {}).get("splits")
    if splits is not None:
        names = [*iter_strings(splits)]
        parts = [folder / name for name in names]
    else:
        names, parts = [], [folder]
    for part in parts:
        stored = (read_json_mapping(part / STATE) or {}).get("_data_files")
        files = [*iter_strings(stored)]
        for name in (*names, *files):
            if problem := name_problem(name):
                raise UnsafeFileError(f"{name!r} in {part / STATE} -> {problem.replace('`path`', str(folder))}")
        check_files(folder, [part / name for name in (STATE, datasets.config.DATASET_INFO_FILENAME, *files)])


def without_decoding(rows):
    """Return the rows of a dataset or a stream without decoding images, audio and similar values.

    Decoding one would open the file or URL that a row names.
    """
    for name, kind in (rows.features or {}).items():
        if (stored := undecoded(kind)) != kind:
            rows = rows.cast_column(name, stored)
    return rows


def undecoded(kind):
    """Return a feature type that decodes only JSON, at any depth."""
    if isinstance(kind, dict):
        return {name: undecoded(field) for name, field in kind.items()}
    if isinstance(kind, (datasets.List, datasets.LargeList)):
        return replace(kind, feature=undecoded(kind.feature))
    is_media = getattr(kind, "decode", False) is True and not isinstance(kind, datasets.Json)
    return replace(kind, decode=False) if is_media else kind
