"""Validates links in the folder of a model or a dataset: only the Hub cache's links may lead out of it.

Otherwise an untrusted model could make the user read, train on and publish other files of this machine.
"""

import re
from pathlib import Path

from hfkit.core.limits import UnsafeFileError

BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""The name of a file in the Hub's cache: a hash of its content."""
MODEL_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".safetensors", ".bin")
"""Suffixes of the files of a model that libraries read."""


def is_blob(file: Path) -> bool:
    """Return whether a resolved path is a file in the Hub's cache, to which the files of a snapshot link."""
    return file.parent.name == "blobs" and BLOB.fullmatch(file.name) is not None


def leads_out(file: Path, folder: Path) -> bool:
    """Return whether a file is a link to a path outside its folder and outside the Hub's cache."""
    real = file.resolve()
    return not real.is_relative_to(folder.resolve()) and not is_blob(real)


def require_own_file(file: Path, folder: Path) -> None:
    """Raise UnsafeFileError if a file of a model or a dataset is a link to a path outside its folder."""
    if leads_out(file, folder):
        raise UnsafeFileError(f"{file} links to a path outside its folder: replace it with a copy of the file (cp -L)")


def require_own_files(folder: Path) -> None:
    """Raise UnsafeFileError if a file of a model that libraries read is a link to a path outside its folder."""
    for file in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        if file.suffix in MODEL_SUFFIXES:
            require_own_file(file, folder)
