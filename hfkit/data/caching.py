"""What was made of rows once is not made again: results kept by the rows' content, the code and the tokenizer."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import datasets
import pyarrow as pa
import tokenizers
import transformers
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from hfkit.data import chat_template as rendering
from hfkit.data import messages as turns

# A process more is started for so many rows more.
ROWS_PER_PROCESS = 2_000


@dataclass(frozen=True)
class Versioned:
    """A function over rows with the hash of the code behind it.

    `datasets` finds what it has cached by a function's name and arguments: without the hash, rows that an earlier
    version of hfkit made would be taken for those of this one.
    """

    function: Callable
    code: str

    @classmethod
    def of(cls, function: Callable) -> "Versioned":
        """With the hash of the modules that make rows."""
        return cls(function, code_hash())

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@cache
def code_hash() -> str:
    """SHA-256 of the modules that read, convert and encode rows, and of the versions of what encodes for them."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(rendering.__file__), Path(turns.__file__)]
    versions = f"{transformers.__version__} {tokenizers.__version__}".encode()
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + versions).hexdigest()


def cached_map(rows: Dataset, function: Callable, **options) -> Dataset:
    """`rows.map`, found again by the content of the rows, wherever they lie and whatever process asks.

    Args:
        function: top-level, or a `partial` of one; a tokenizer among its arguments counts by what is in it.
        options: of `Dataset.map`; `num_proc` and `desc` do not change the result.
    """
    if not datasets.is_caching_enabled():
        return rows.map(Versioned.of(function), **options)
    shown = {name: value for name, value in options.items() if name not in ("num_proc", "desc")}
    key = Hasher.hash([content_hash(rows), code_hash(), function_identity(function), shown])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hfkit"
    folder.mkdir(parents=True, exist_ok=True)
    file = str(folder / f"{key}.arrow")
    with exclusive_lock(folder / f"{key}.lock"):
        made = rows.map(Versioned.of(function), new_fingerprint=key, cache_file_name=file, **options)
    # What is found again has a fingerprint of its file's: with this one, what is made of it is found again too.
    return Dataset(made.data, info=made.info, split=made.split, fingerprint=key)


@contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Only one process at a time: the first of several that train together makes the rows, the others find them."""
    with file.open("a") as lock:
        with suppress(OSError):  # a file system without locks: each makes them
            # not flock: the processes of `map` would hold it too, and they outlive a trainer that is killed
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def function_identity(function: Callable) -> list:
    """A function's name and arguments as values that are the same in every process."""
    if not isinstance(function, partial):
        return [function.__module__, function.__qualname__]
    arguments = [*function.args, *(item for pair in sorted(function.keywords.items()) for item in pair)]
    known = [tokenizer_hash(one) if isinstance(one, PreTrainedTokenizerBase) else one for one in arguments]
    return [*function_identity(function.func), known]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what a tokenizer makes of a text: its vocabulary, rules and template, not where it lies."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    # What stands before its tokens is how the last call padded and cut, which each call sets anew.
    rules = rules.partition('"added_tokens"')[2] or rules
    template = [tokenizer.chat_template, getattr(tokenizer, "chat_control_tokens", None)]
    template += [tokenizer.special_tokens_map, type(tokenizer).__name__]
    template += [getattr(tokenizer, "split_special_tokens", False)]
    return hashlib.sha256((rules + json.dumps(template, sort_keys=True, default=str)).encode()).hexdigest()


def content_hash(rows: Dataset) -> str:
    """SHA-256 of the rows themselves, whatever file or cache they come from, and in whatever pieces."""
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(1000):
        # A part of a larger piece is written with what it shares with the rest; a copy of its rows is not.
        table = table.replace_schema_metadata(None).take(pa.array(range(len(table)))).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def process_count(asked: int | None, rows: int) -> int | None:
    """How many processes share the rows: as asked, else by the number of rows and of the cores that there are for it.

    None is this process alone.
    """
    if asked is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Of trainers that share a cache one has all cores, while the others wait for it.
        at_work = 1 if datasets.is_caching_enabled() else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        asked = min(cores // at_work, rows // ROWS_PER_PROCESS)
    return asked if asked > 1 else None
