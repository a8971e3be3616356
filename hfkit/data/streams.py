"""Reads streams: stores as many rows as the budget allows in the cache, so that later runs see the same rows."""

from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets import Dataset, Features, List, Value

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.core.hub_retry import cached_if_unreachable
from hfkit.data.caching import code_hash
from hfkit.data.cards import Keep, passes
from hfkit.data.compression import unpacked
from hfkit.data.csv_rows import CSV_OPTIONS, cell_value
from hfkit.data.file_sets import checked_source, open_builder
from hfkit.data.files import builder_arguments, read_error
from hfkit.data.json_rows import exact_rows, json_shape
from hfkit.data.messages import iter_strings
from hfkit.data.progress import progress_bars
from hfkit.data.source_files import is_saved, without_decoding

# Size of the buffer from which the next row is drawn, since a stream cannot be shuffled as a whole.
BUFFER = 10_000
# Columns with names that no dataset has: how many rows `keep` has left out so far, and the names of all columns.
LEFT_OUT_COLUMN, NAMES_COLUMN = "=left out", "=names"
# UTF-8 bytes of text taken per token of a budget: more than a token has, so that the budget can be filled.
BYTES_PER_TOKEN = 8
FIRST_ROWS = 20


def open_stream(source: dict) -> tuple[dict, datasets.IterableDataset, str, list | None]:
    """Return a stream of a split, with the values needed to read it.

    Args:
        source: arguments of `load_dataset`, `path` and `split` among them.

    Returns:
        the arguments that stream it, the stream, a text that changes with its files (or its commit), and path and
        shape of a JSON file that Python reads, as for `exact_rows`.

    Raises:
        HfkitError: the stream cannot be read, or has no such split.
    """
    path, split = Path(source["path"]), source["split"]
    if is_saved(path):
        raise HfkitError(f"{path} is a saved dataset, which cannot be streamed: remove streaming")
    if path.is_dir() and any(path.rglob("*.zst")):
        raise HfkitError(
            f"{path} has .zst files, which cannot be streamed from a folder: remove streaming, or name a file"
        )
    try:
        arguments = builder_arguments(path)
        if arguments is None:
            arguments = {name: value for name, value in checked_source(source).items() if name != "split"}
            with cached_if_unreachable(path):
                builder = open_builder(arguments)
        else:
            builder = datasets.load_dataset_builder(**arguments)
        if builder.name == "csv" and arguments["path"] != "csv":  # of a dataset on the Hub
            arguments |= CSV_OPTIONS
            builder = datasets.load_dataset_builder(**arguments)
        streams = builder.as_streaming_dataset()
        if split not in streams:
            raise ValueError(f"the stream has no split {split!r}; choose one of {[*streams]}, without slicing")
        file = unpacked(path) if arguments["path"] == "json" else None
        shape = json_shape([file]) if file else None
        exact = [str(file), shape] if file and exact_rows([file], shape) is not None else None
    except Exception as error:  # the readers raise errors of many types
        raise read_error(path, error) from error
    return arguments, without_decoding(streams[split]), str(builder.cache_dir), exact


def first_rows(source: dict) -> Dataset:
    """Return the first rows of a stream, to inspect their columns.

    Raises:
        HfkitError: as `open_stream`.
    """
    _, stream, _, exact = open_stream(source)
    try:
        if exact:
            rows = exact_rows([Path(exact[0])], exact[1])
            return rows.select(range(min(FIRST_ROWS, len(rows))))
        return Dataset.from_list([*stream.take(FIRST_ROWS)], features=stream.features)
    except Exception as error:  # the readers raise errors of many types
        raise read_error(Path(source["path"]), error) from error


def take_rows(
    entry: DatasetEntry, source: dict, columns: list[str], keep: list[Keep], seed: int
) -> tuple[Dataset, int, list[str]]:
    """Return the rows of a stream up to its entry's budget, shuffled in a seeded buffer, with only these columns.

    A budget of rows is met exactly if the stream has as many. For a budget of tokens, more rows are taken than needed,
    and cut after the tokens are counted.

    Args:
        source: arguments of `load_dataset`, `path` and `split` among them.

    Returns:
        the rows, how many rows `keep` left out before the last of them, and the names of all columns of the stream.

    Raises:
        HfkitError: the stream cannot be read, or has no such split or column.
    """
    arguments, stream, state, exact = open_stream(source)
    try:
        plan = {
            "source": arguments,
            "split": source["split"],
            "state": state,
            "exact": exact,
            "is_csv": arguments["path"] == "csv",
            "columns": columns,
            "keep": [vars(test) for test in keep],
            "rows": entry.rows,
            "size": entry.tokens and entry.tokens * BYTES_PER_TOKEN,
            "seed": seed,
            "code": code_hash(stream_rows) + code_hash(Keep),
        }
        # Types would be inferred from the first thousand rows, in which a column may be empty.
        known = stream.features or {}
        missing = [test.column for test in keep if known and test.column not in known]
        if missing:
            raise ValueError(f"no column {missing[0]!r} (for keep); it has {[*known]}")
        types = {name: known[name] for name in columns if name in known}
        own = {LEFT_OUT_COLUMN: Value("int64"), NAMES_COLUMN: List(Value("string"))}
        features = Features({**types, **own}) if types else None
        with progress_bars(entry.rows or 0):
            rows = Dataset.from_generator(stream_rows, features=features, gen_kwargs={"plan": plan})
    except Exception as error:  # the readers raise errors of many types
        raise read_error(Path(source["path"]), error) from error
    last = rows[-1]
    return rows.remove_columns([LEFT_OUT_COLUMN, NAMES_COLUMN]), last[LEFT_OUT_COLUMN], last[NAMES_COLUMN]


def stream_rows(plan: dict) -> Iterator[dict]:
    """Yield the rows that `take_rows` takes; some keys of `plan` only distinguish cached results."""
    tests = [Keep(**test) for test in plan["keep"]]
    if plan["exact"]:
        path, shape = plan["exact"]
        stream = exact_rows([Path(path)], shape).to_iterable_dataset()
    else:
        stream = without_decoding(datasets.load_dataset(**plan["source"], split=plan["split"], streaming=True))
    count, read, left_out = 0, 0, 0
    for row in stream.shuffle(seed=plan["seed"], buffer_size=BUFFER):
        cells = {test.column: cell_value(row[test.column], test.is_numeric) for test in tests if plan["is_csv"]}
        if not passes(row | cells, tests):
            left_out += 1
            continue
        names, row = [*row], {name: row[name] for name in plan["columns"] if name in row}
        yield row | {LEFT_OUT_COLUMN: left_out, NAMES_COLUMN: names}
        count, read = count + 1, read + sum(len(text.encode()) for text in iter_strings(row))
        if count == plan["rows"] or (plan["size"] and read >= plan["size"]):
            return
    if not count:
        raise ValueError("no row passes keep" if left_out else "it is empty")
