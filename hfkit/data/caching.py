"""Caches what is computed from rows, by the content of the rows, the code and the tokenizer."""

import fcntl
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO

import datasets
import pyarrow as pa
import tokenizers
import transformers
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from hfkit.core.compat import is_lost_worker
from hfkit.core.console import warn
from hfkit.core.errors import HfkitError, Problem, reason
from hfkit.core.files import read_json_mapping, write_json
from hfkit.core.temporary import remove_leftovers, temporary_folder
from hfkit.data.progress import progress_bars
from hfkit.data.rendering import template_kwargs

ROWS_PER_PROCESS = 2_000
SIZES_FILE = "sizes.json"  # sizes of the files of cached rows, by name
ROW_MODULES = (
    "chat_template",
    "concatenation",
    "conversations",
    "conversions",
    "encoding",
    "faults",
    "function_calls",
    "json_shapes",
    "message_texts",
    "messages",
    "rendering",
    "reply_tokens",
    "template_limits",
    "template_source",
    "turn_end",
)
"""The modules of `hfkit.data` that functions over rows call: a change in one invalidates all cached rows."""


@dataclass(frozen=True)
class Versioned:
    """A function over rows with the hash of its code.

    `datasets` finds cached rows by a function's name and arguments: without the hash, it would find rows made by an
    older version of hfkit.
    """

    function: Callable
    code: str

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def code_hash(function: Callable) -> str:
    """Return the SHA-256 of a function's module, `ROW_MODULES`, and the versions of Transformers and Tokenizers."""
    while isinstance(function, partial):
        function = function.func
    return _module_hash(inspect.getsourcefile(function))


@cache
def _module_hash(file: str) -> str:
    files = [Path(file), *(Path(__file__).with_name(f"{name}.py") for name in ROW_MODULES)]
    versions = f"{transformers.__version__} {tokenizers.__version__}".encode()
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + versions).hexdigest()


def map_rows(rows: Dataset, function: Callable, **options) -> Dataset:
    """Return `rows.map(function)` of a top-level function or a `partial` of one, recomputed if its code changes.

    Raises:
        HfkitError: a process of `num_proc` was killed.
    """
    try:
        with progress_bars(len(rows)):
            return rows.map(Versioned(function, code_hash(function)), **options)
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        remedy = "a process that prepared rows was killed, probably because the machine ran out of memory: lower it"
        raise HfkitError(str(Problem("dataset_num_proc", options.get("num_proc"), remedy))) from error


def cached_map(rows: Dataset, function: Callable, **options) -> Dataset:
    """Return `rows.map(function)`, cached by the content of the rows across files and processes.

    Args:
        function: top-level, or a `partial` of one; a tokenizer in its arguments is identified by `tokenizer_hash`.
        options: options of `Dataset.map`; `num_proc` and `desc` do not change the result.
    """
    if not datasets.is_caching_enabled():
        return map_rows(rows, function, **options)
    relevant = {name: value for name, value in options.items() if name not in ("num_proc", "desc")}
    key = Hasher.hash([content_hash(rows), code_hash(function), function_identity(function), relevant])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hfkit" / key
    make = partial(map_rows, rows, function, new_fingerprint=key, **options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
    except OSError as error:
        warn(
            f"prepared rows are not cached: cannot write to {folder.parent} ({reason(error)}); set HF_HOME to a "
            "writable folder"
        )
        made = make(keep_in_memory=True)
    else:
        with exclusive_lock(lock):
            made = cached_rows(folder, make)
    # Cached rows would have the fingerprint of their file; with this one, results computed from them are cached.
    return Dataset(made.data, info=made.info, split=made.split, fingerprint=key)


def cached_rows(folder: Path, make: Callable[..., Dataset]) -> Dataset:
    """Return the rows in a folder of the cache; if there are none or they are damaged, create them with `make`.

    Args:
        make: takes `cache_file_name` and reads that file if it exists.
    """
    remove_leftovers(folder)
    find = partial(make, cache_file_name=str(folder / "rows.arrow"))
    sizes = read_json_mapping(folder / SIZES_FILE)  # None if a process was killed before it finished
    if sizes is not None:
        try:
            if sizes != row_file_sizes(folder):
                raise pa.ArrowInvalid("the sizes of its files have changed since they were written")
            return find()
        except (pa.ArrowException, OSError) as error:
            warn(f"the cache of prepared rows in {folder} is damaged ({reason(error)}): the rows are prepared again")
    for name in (*row_file_sizes(folder), SIZES_FILE):
        (folder / name).unlink(missing_ok=True)
    with temporary_folder(folder / "rows") as unfinished:
        make(cache_file_name=str(unfinished / "rows.arrow"))
        for name in row_file_sizes(unfinished):
            os.replace(unfinished / name, folder / name)
    write_json(folder / SIZES_FILE, row_file_sizes(folder))
    return find()


def row_file_sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of cached rows, by name; files derived from them are in the same folder."""
    return {file.name: file.stat().st_size for file in sorted(folder.glob("rows*.arrow"))}


@contextmanager
def exclusive_lock(lock: IO[bytes]) -> Iterator[None]:
    """Hold a lock: of the processes of a launch, the first one prepares the rows and the others read them."""
    with lock:
        with suppress(OSError):  # a file system without locks: each process prepares the rows
            # not flock: the workers of `map` would inherit it, and they outlive a killed trainer
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def function_identity(function: Callable) -> list:
    """Return a function's name and arguments as values that are equal in every process."""
    if not isinstance(function, partial):
        return [function.__module__, function.__qualname__]
    arguments = [*function.args, *(item for pair in sorted(function.keywords.items()) for item in pair)]
    values = [tokenizer_hash(one) if isinstance(one, PreTrainedTokenizerBase) else one for one in arguments]
    return [*function_identity(function.func), values]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of a tokenizer's vocabulary, rules, special tokens and template, whatever its path."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    # The text before its tokens holds the padding and truncation of the last call, which each call sets again.
    rules = rules.partition('"added_tokens"')[2] or rules
    template = [tokenizer.chat_template, getattr(tokenizer, "chat_control_tokens", None), tokenizer.special_tokens_map]
    template.append(template_kwargs(tokenizer))
    template += [type(tokenizer).__name__, getattr(tokenizer, "split_special_tokens", False)]
    return hashlib.sha256((rules + json.dumps(template, sort_keys=True, default=str)).encode()).hexdigest()


def content_hash(rows: Dataset) -> str:
    """Return the SHA-256 of the rows, independent of their file, cache and chunks."""
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(1000):
        # A slice would be written with the whole buffers of its chunk; a copy of its rows is not.
        table = table.replace_schema_metadata(None).take(pa.array(range(len(table)))).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def process_count(requested: int | None, rows: int) -> int | None:
    """Return how many processes prepare the rows: `requested`, or one per `ROWS_PER_PROCESS` rows and at most per core.

    None means this process alone.
    """
    if requested is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # If trainers share a cache, one of them uses all cores while the others wait.
        trainers = 1 if datasets.is_caching_enabled() else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        requested = min(cores // trainers, rows // ROWS_PER_PROCESS)
    return requested if requested > 1 else None
