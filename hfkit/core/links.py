"""Links in the folder of a model or a data set: those of the Hub's cache are followed, others out of it are errors.

A model of somebody else could otherwise have the user read, train on and publish other files of this machine.
"""

import re
from pathlib import Path

from hfkit.core.limits import UnsafeFileError

BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""The name of a file in the Hub's cache, a hash of its content."""
MODEL_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".safetensors", ".bin")
"""Of the files of a model that libraries read."""


def is_blob(file: Path) -> bool:
    """Return whether a resolved path is a file in the Hub's cache, to which the files of a snapshot link."""
    return file.parent.name == "blobs" and BLOB.fullmatch(file.name) is not None


def leads_out(file: Path, folder: Path) -> bool:
    """Return whether a file is a link out of its folder, and not into the Hub's cache."""
    real = file.resolve()
    return not real.is_relative_to(folder.resolve()) and not is_blob(real)


def require_own_file(file: Path, folder: Path) -> None:
    """Raise an UnsafeFileError if a file of a model or a data set is a link out of its folder."""
    if leads_out(file, folder):
        raise UnsafeFileError(f"{file} is a link out of its folder: replace it with a copy of the file (cp -L)")


def require_own_files(folder: Path) -> None:
    """Raise an UnsafeFileError if one of the files of a model that libraries read is a link out of its folder."""
    for file in [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]:
        if file.suffix in MODEL_SUFFIXES:
            require_own_file(file, folder)
