"""Which files of a folder go to the Hub: those that a loader or a reader wants, and no others."""

import hashlib
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfkit.core.errors import Problem
from hfkit.core.files import file_hash
from hfkit.core.hub_patterns import DOCUMENTS, LOADED_FILES, is_listed

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
PICKLED = "runs code when it is loaded: move it away; weights belong in safetensors (save_pretrained writes these)"
LINKED = "a link may lead anywhere: put a copy of what it points to in its place (cp -L)"
SECRET_FOUND = "looks like a token or key: take it out, and have it replaced where it came from"
# Pickles that are no weights: what a trainer goes on from. They go along if they are asked for by name.
TRAINER_STATE_FILES = (
    "optimizer*.pt",
    "optimizer*.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "training_args.bin",
)
# Where a word begins, also behind an escape of JSON, whose last letter would else be taken for the word's first.
BEGINNING = rb"(?:\b|(?<=\\[bfnrt])|(?<=\\u[0-9a-fA-F]{4}))"
SECRETS = re.compile(
    BEGINNING + rb"(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,}"
    rb"|glpat-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}\b|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35})"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
BINARY = (".safetensors", ".png")


@dataclass(frozen=True)
class File:
    """A file to upload.

    Attributes:
        path: its name in the repository.
        content: where it lies, or what stands in it, if that is not what lies in the folder.
    """

    path: str
    content: Path | bytes

    @cached_property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def data(self) -> bytes:
        """What stands in it; not for weights."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @cached_property
    def sha256(self) -> str:
        """Its name as a large file."""
        return file_hash(self.content) if isinstance(self.content, Path) else hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """Its name as a file in git."""
        return hashlib.sha1(b"blob %d\0" % self.size + self.data).hexdigest()


def files_of(folder: Path, include: tuple[str, ...] = ()) -> tuple[dict[str, File], list[str], list[Problem]]:
    """The files of a folder that are to be uploaded, by name; what is left out; what speaks against the upload.

    Args:
        include: patterns of further files, as `checkpoint-500/*`.
    """
    files, left_out, problems = {}, [], []
    for name in names_in(folder):
        path = folder / name
        wanted = any(fnmatchcase(name, pattern) for pattern in include)
        if is_pickle(name, wanted):
            problems.append(Problem(str(path), "a pickle", PICKLED))
        elif not wanted and not is_listed(name, LOADED_FILES + DOCUMENTS):
            left_out.append(name)
        elif path.is_symlink() or not path.is_file():
            problems.append(Problem(str(path), "not a file of this folder", LINKED))
        elif name.endswith(".safetensors") and not is_safetensors(path):
            problems.append(Problem(str(path), "cannot be read", "no safetensors, or cut off: write it anew"))
        else:
            files[name] = File(name, path)
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in files):
            problems.append(Problem("--include", pattern, f"there is no such file in {folder}"))
    return files, grouped(left_out), problems


def is_safetensors(path: Path) -> bool:
    """Whether a file's header can be read, and the file is as long as it says."""
    try:
        with safe_open(path, framework="np"):
            return True
    except (OSError, SafetensorError):
        return False


def names_in(folder: Path) -> list[str]:
    """Every file below a folder, and every link, relative to it; links are not followed."""
    names = []
    for root, folders, files in os.walk(folder):
        linked = [name for name in folders if (Path(root) / name).is_symlink()]
        names += [(Path(root) / name).relative_to(folder).as_posix() for name in files + linked]
    return sorted(names)


def is_pickle(name: str, wanted: bool) -> bool:
    """Whether a file of the folder itself, or one asked for, is a pickle that stops the upload."""
    if not name.endswith(PICKLES) or ("/" in name and not wanted):
        return False
    return not (wanted and any(fnmatchcase(name.split("/")[-1], state) for state in TRAINER_STATE_FILES))


def grouped(names: list[str]) -> list[str]:
    """Names, with a folder in place of what is in it."""
    return sorted({name if "/" not in name else name.split("/")[0] + "/" for name in names})


def secret_problems(files: dict[str, File], token: str | None) -> list[Problem]:
    """Lines that hold what looks like a token, or the very token that is used now; they are named and not shown."""
    problems = []
    for file in files.values():
        if file.path.endswith(BINARY):
            continue
        own = token is not None and token.encode() in file.data
        found = SECRETS.search(file.data)
        if found or own:
            start = found.start() if found else file.data.index(token.encode())
            line = file.data.count(b"\n", 0, start) + 1
            problems.append(Problem(file.path, f"line {line}", SECRET_FOUND))
    return problems
