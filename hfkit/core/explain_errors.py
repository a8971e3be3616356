"""Explains errors of files, disks, memory and trainers in one line that says what to change."""

import errno
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfkit.core.errors import HfkitError, reason
from hfkit.core.names import NOT_UTF8, is_utf8

PACKAGE = Path(__file__).parents[1]
FULL = 1 << 16  # bytes free, below which a failure means that the disk is full
FULL_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: `ulimit -f`
FAILED_SAVE = ("PytorchStreamWriter", "inline_container", "iostream error")
"""Messages of torch.save when it cannot write; they have no error code."""
MISPLACED_CODES = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""A folder instead of a file or the reverse, and names that the file system rejects."""
FILE_REMEDIES = {
    errno.EROFS: "choose another folder",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its owner and its permissions"),
    **dict.fromkeys(MISPLACED_CODES, "remove it, or choose another folder"),
}
CUDA_FULL = 2  # cudaErrorMemoryAllocation
BROKEN_CODES = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO}
"""Failures of a disk or a network drive."""
TOO_MANY_CODES = {errno.EMFILE, errno.ENFILE}
CACHES = ("HF_HUB_CACHE", "HF_DATASETS_CACHE")
"""The environment variables of caches that may lie outside HF_HOME."""


class FullDiskError(HfkitError):
    """A file could not be written: the disk is full, or a quota or the limit on file sizes is reached."""


@contextmanager
def explain_errors(folder: Path, config=None):
    """Turn errors of a block that the user can act on into one line; let other errors pass.

    Args:
        folder: where the block writes.
        config: the config whose keys the message names; its `extra` fields go to the trainer unchecked.

    Raises:
        HfkitError: the disk or the memory is full; or a library failed while the config has `extra` fields.
    """
    extra = getattr(config, "extra", {})
    try:
        with explain_out_of_memory(config):
            yield
    except HfkitError:
        raise
    except Exception as error:
        if explained := explain_file_error(error, folder):
            raise explained from error
        if not extra or is_own(error):
            raise
        key = "this key" if len(extra) == 1 else "one of these keys"
        raise HfkitError(
            f"the trainer failed: {reason(error)}; the config passes {', '.join(extra)} to the trainer unchecked: "
            f"check whether {key} is the cause (HFKIT_DEBUG=1 shows the traceback)"
        ) from error


def is_own(error: BaseException) -> bool:
    """Return whether hfkit's own code raised an error, rather than a library."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)


def explain_file_error(error: BaseException, folder: Path | None = None) -> HfkitError | None:
    """Return a one-line error for a full disk, or a file that cannot be read or written; None for other errors.

    Args:
        folder: where the failed block wrote, if known.
    """
    for one in chain_of(error):
        code, file, text = error_code(one), getattr(one, "filename", None), str(one)
        if (
            code in FULL_CODES
            or any(words in text for words in FAILED_SAVE)
            or (isinstance(one, (OSError, RuntimeError)) and is_full(folder))
        ):
            where = folder or (Path(str(file)).parent if file else fullest_folder())
            return FullDiskError(f"no space left in {where} ({reason(one)}): free some{cache_remedy(where)}")
        if code in FILE_REMEDIES and file:
            return HfkitError(f"{file}: {os.strerror(code)}: {FILE_REMEDIES[code]}{cache_remedy(file)}")
        if code in BROKEN_CODES:
            return HfkitError(f"{file or folder or 'a disk'}: {os.strerror(code)}: check the disk and its connection")
        if code in TOO_MANY_CODES:
            return HfkitError(f"{os.strerror(code)} ({reason(one)}): raise the limit, such as with `ulimit -n 4096`")
        if code == errno.ENOENT and folder and (gone := removed_folder(folder, file)):
            return HfkitError(f"{gone} was removed while hfkit wrote into it: start again and keep the folder")
        if isinstance(one, UnicodeEncodeError) and not is_utf8(one.object):
            return HfkitError(f"{one.object[max(one.start - 40, 0) : one.end + 10]!r} is {NOT_UTF8}")
    return None


def removed_folder(folder: Path, file: str | None) -> Path | None:
    """Return `folder`, or the folder of a file in it, if it was removed while a block wrote into it; else None."""
    inner = Path(file).absolute().parent if file else folder
    within = inner if inner.is_relative_to(folder.absolute()) else folder
    return next((path for path in (folder, within) if not path.exists()), None)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those in its chain of causes and contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def error_code(error: BaseException) -> int | None:
    """Return the code of an operating system's error; Arrow, PyTorch and libraries in Rust put it into the message."""
    code = getattr(error, "errno", None)
    found = re.search(r"\b(?:os error|errno|error code) (\d+)", str(error), re.IGNORECASE)
    return code if isinstance(code, int) else int(found[1]) if found else None


def is_full(folder: Path | None) -> bool:
    """Return whether the disk of a folder has no room for another file."""
    return folder is not None and folder.exists() and shutil.disk_usage(folder).free < FULL


def cache_folder() -> Path:
    """Return the folder of Hugging Face's caches, found as the libraries find it."""
    default = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HOME", default)))


def fullest_folder() -> Path:
    """Return the folder with the least space among those that libraries write to: caches and temporary files."""
    folders = [cache_folder(), Path(tempfile.gettempdir())]
    existing = {
        folder: next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        for folder in folders
    }
    return min(folders, key=lambda folder: shutil.disk_usage(existing[folder]).free)


def cache_remedy(path: Path | str) -> str:
    """Return the addition to a remedy if a path is in a cache of Hugging Face, else ""."""
    caches = [cache_folder(), *(Path(os.environ[key]) for key in CACHES if key in os.environ)]
    inside = any(Path(path).absolute().is_relative_to(cache.absolute()) for cache in caches)
    return ", or set HF_HOME to a writable folder for the caches of Hugging Face" if inside else ""


def require_home() -> None:
    """Raise HfkitError if there is no home folder and no variable sets the folder of Hugging Face's caches."""
    if os.path.expanduser("~") == "~" and not (os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME")):
        raise HfkitError(
            "HOME is not set and the user has no home folder: set HF_HOME to a writable folder for the caches of "
            "Hugging Face"
        )


@contextmanager
def explain_out_of_memory(config=None):
    """Turn PyTorch's out-of-memory error into one line with the keys to change.

    Raises:
        HfkitError: the block ran out of memory, of the GPU or of the machine.
    """
    try:
        yield
    except Exception as error:
        on_gpu = is_gpu_full(error)
        if not on_gpu and not isinstance(error, MemoryError) and error_code(error) != errno.ENOMEM:
            raise
        where = "GPU" if on_gpu else "machine"
        raise HfkitError(f"the {where} is out of memory: {', or '.join(memory_remedies(config))}") from error


def is_gpu_full(error: BaseException) -> bool:
    """Return whether an error means that the GPU is out of memory, also if other programs leave none for CUDA itself.

    PyTorch raises two types, recognized by name: this module does not import torch.
    """
    kind, code = type(error).__name__, getattr(error, "error_code", None)
    return kind == "OutOfMemoryError" or (kind == "AcceleratorError" and code == CUDA_FULL)


def memory_remedies(config) -> list[str]:
    """Return what to change, cheapest first: batch sizes, then what costs time; the dtype if nothing is trained.

    A key that the config lacks or that cannot be lowered is left out.
    """
    trains = hasattr(config, "per_device_train_batch_size")
    batch_sizes = {
        "per_device_train_batch_size": "lower per_device_train_batch_size (and raise gradient_accumulation_steps)",
        "local_rollout_forward_batch_size": "lower local_rollout_forward_batch_size",
        "per_device_eval_batch_size": "lower per_device_eval_batch_size",
    }
    tokens = getattr(config, "max_tokens_per_micro_batch", None)  # if `plan_run` chose them, fewer rows change nothing
    if tokens:
        del batch_sizes["per_device_train_batch_size"]
    remedies = [f"set max_tokens_per_micro_batch below {tokens}"] if tokens else []
    remedies += [remedy for key, remedy in batch_sizes.items() if (getattr(config, key, None) or 0) > 1]
    if getattr(config, "merge_in_rollouts", False) and config.use_peft:
        remedies.append("set merge_in_rollouts to false")
    if getattr(config, "gradient_checkpointing", None) is False:  # None: not decided yet
        remedies.append("set gradient_checkpointing to true")
    if not trains and getattr(config, "dtype", None) == "float32":
        remedies.append("set dtype to bfloat16")
    if trains:
        return [*remedies, "run `hfkit plan` to see what fits"]
    return [*remedies, "run on the CPU (CUDA_VISIBLE_DEVICES= in front of the command)"]
