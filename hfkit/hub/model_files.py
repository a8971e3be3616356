"""Select the files of a model folder that a push uploads: those that loaders and readers need, and no others."""

import hashlib
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfkit.core.errors import Problem
from hfkit.core.files import file_hash
from hfkit.core.hub_files import DOCUMENTS, LOADED_FILES, matches

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
# Pickles that hold no weights but the state of a trainer. They are uploaded only if `include` names them.
TRAINER_STATE_FILES = (
    *("optimizer*.pt", "optimizer*.bin", "scheduler.pt"),
    *("scaler.pt", "rng_state*.pth", "training_args.bin"),
)


@dataclass(frozen=True)
class RepoFile:
    """A file to upload: its name in the repository, and the local file or bytes with its content."""

    path: str
    content: Path | bytes

    @cached_property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def data(self) -> bytes:
        """The content, in memory; do not use it for weights."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @cached_property
    def sha256(self) -> str:
        """The Hub's id of the content if it is stored in LFS or Xet."""
        return file_hash(self.content) if isinstance(self.content, Path) else hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """The Hub's id of the content if it is stored in git."""
        return hashlib.sha1(b"blob %d\0" % self.size + self.data).hexdigest()


def select_files(folder: Path, include: tuple[str, ...] = ()) -> tuple[dict[str, RepoFile], list[str], list[Problem]]:
    """Return the files of a model folder to upload, by name; the names that are left out; and the problems.

    Args:
        include: patterns of further files, such as `checkpoint-500/*`.
    """
    files, left_out, problems = {}, [], []
    for name in list_files(folder):
        path = folder / name
        wanted = any(fnmatchcase(name, pattern) for pattern in include)
        if is_refused_pickle(name, wanted):
            remedy = "can run code when it is loaded: move it out of the folder; save weights as safetensors"
            problems.append(Problem(str(path), "a pickle", remedy))
        elif not wanted and not matches(name, LOADED_FILES + DOCUMENTS):
            left_out.append(name)
        elif path.is_symlink() or not path.is_file():
            problems.append(irregular_file(path))
        elif name.endswith(".safetensors") and not is_safetensors(path):
            problems.append(Problem(str(path), "not readable", "not a safetensors file, or truncated: save it again"))
        else:
            files[name] = RepoFile(name, path)
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in files):
            problems.append(Problem("--include", pattern, f"matches no file in {folder}"))
    return files, group_by_folder(left_out), problems


def irregular_file(path: Path) -> Problem:
    """Return the problem of a link, pipe or folder where a file is expected; a link may point outside the folder."""
    return Problem(str(path), "not a regular file", "replace it with a copy of the file (cp -L)")


def is_safetensors(path: Path) -> bool:
    """Return whether a file has a valid safetensors header and the length that the header states."""
    try:
        with safe_open(path, framework="np"):
            return True
    except (OSError, SafetensorError):
        return False


def list_files(folder: Path) -> list[str]:
    """Return the sorted paths of all files and links below a folder, relative to it; links are not followed."""
    names = []
    for root, folders, files in os.walk(folder):
        linked = [name for name in folders if (Path(root) / name).is_symlink()]
        names += [(Path(root) / name).relative_to(folder).as_posix() for name in files + linked]
    return sorted(names)


def is_refused_pickle(name: str, wanted: bool) -> bool:
    """Return whether a file is a pickle, at the top of the folder or `wanted`, other than a wanted trainer state."""
    if not name.endswith(PICKLE_SUFFIXES) or ("/" in name and not wanted):
        return False
    return not (wanted and any(fnmatchcase(name.split("/")[-1], state) for state in TRAINER_STATE_FILES))


def group_by_folder(names: list[str]) -> list[str]:
    """Return sorted names, with `folder/` for all files of a folder."""
    return sorted({name if "/" not in name else name.split("/")[0] + "/" for name in names})
