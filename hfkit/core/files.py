"""Writes files atomically, reads and writes JSON, and computes hashes."""

import hashlib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from hfkit.core.errors import HfkitError
from hfkit.core.links import is_blob

RECORD = "hfkit.json"  # the record of a run, in its folder
LARGEST_JSON = 64 << 20
"""Bytes of a JSON file that is read: the index of a model with 10^12 weights has 20 MB."""
DEEPEST_JSON = 400
"""Levels of lists and mappings in it: a run's record has two for each generation of its lineage."""


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: to a temporary file beside it, which is then renamed, or removed if that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a full disk
        temporary.unlink(missing_ok=True)
        raise


def leftover_files(folder: Path) -> list[Path]:
    """Return the temporary files of `write_text` that a killed process left in a folder."""
    return [path for path in folder.glob(".*.tmp") if re.fullmatch(r"\.\w+\.\w+\.\d+\.tmp", path.name)]


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: it is not JSON, larger than `LARGEST_JSON`, or nested deeper than `DEEPEST_JSON`.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"it has {size >> 20} MB, more than {LARGEST_JSON >> 20}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        deep = depth(content) > DEEPEST_JSON
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"it is nested deeper than {DEEPEST_JSON} levels")
    return content


def depth(content: Any) -> int:
    """Return how many levels of lists and mappings a JSON value has."""
    level, levels = [content], 0
    while level := [one for one in level if isinstance(one, (dict, list))]:
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
        levels += 1
    return levels


def read_json_mapping(path: Path) -> dict | None:
    """Return the mapping in a JSON file; None if there is no file, or no mapping in it."""
    try:
        content = load_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def hash_of(settings: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file; an unchanged file is read once. The Hub's cache names large files by their hash."""
    file = file.resolve()
    if is_blob(file) and len(file.name) == 64:
        return file.name
    state = file.stat()
    return _hash_of_file(file, state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _hash_of_file(file: Path, *_state: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def require_free_folder(out: Path) -> None:
    """Raise HfkitError if `out` is a file or a link, or a folder that is not empty."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise HfkitError(f"{out} is a file or a link: choose another folder")
    if out.is_dir() and any(out.iterdir()):
        raise HfkitError(f"{out} is not empty: choose another folder")
