"""Files written whole or not at all, JSON, and hashes."""

import hashlib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from hfkit.core.errors import HfkitError

RECORD = "hfkit.json"  # the record of a run, in its folder


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: a temporary file beside it, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def leftover_files(folder: Path) -> list[Path]:
    """Temporary files of `write_text` that a killed process left in a folder."""
    return [path for path in folder.glob(".*.tmp") if re.fullmatch(r"\.\w+\.\w+\.\d+\.tmp", path.name)]


def write_json(path: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json_mapping(path: Path) -> dict | None:
    """The mapping in a JSON file, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def hash_of(settings: Any) -> str:
    """SHA-256 of any JSON value."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file, read once as long as it stays as it is; in the Hub's cache large files are named by it."""
    file = file.resolve()
    if file.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", file.name):
        return file.name
    now = file.stat()
    return _hash_of_file(file, now.st_size, now.st_mtime_ns, now.st_ino)


@cache
def _hash_of_file(file: Path, *_state: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def require_free_folder(out: Path) -> None:
    """Raises HfkitError if `out` is a file, or a folder with something in it."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise HfkitError(f"{out} is a file or a link; it is left as it is: choose another folder")
    if out.is_dir() and any(out.iterdir()):
        raise HfkitError(f"{out} is not empty; it is left as it is: choose another folder")
