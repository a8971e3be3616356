"""Streams: as many rows as a budget asks for, taken once into the cache, so that every run after it sees the same."""

from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets import Dataset, Features, Value

from hfkit.config.fields import DatasetEntry
from hfkit.core.errors import HfkitError
from hfkit.data.caching import code_hash
from hfkit.data.cards import Keep
from hfkit.data.files import progress_bars, builder_of, builder_arguments, read_error

# Rows among which the next one is drawn: a stream cannot be shuffled whole.
BUFFER = 10_000
# The column that counts what `keep` has left out of a stream so far, under a name that no data set has.
LEFT_OUT_COLUMN = "=left out"
# UTF-8 bytes of text taken for each token of a budget: more than text has, so that the budget can be filled.
BYTES_PER_TOKEN = 8


def take_rows(entry: DatasetEntry, place: dict, columns: list[str], keep: list[Keep], seed: int) -> tuple[Dataset, int]:
    """The rows of a stream up to the budget of its entry, in the order of a seeded buffer, with these columns alone.

    A budget of rows is met exactly if the stream has as many; of a budget of tokens more is taken than it needs, to be
    cut once the tokens are counted.

    Returns:
        the rows, and how many `keep` left out on the way to them.

    Raises:
        HfkitError: it cannot be read, or has no such split or column.
    """
    path, split = Path(place["path"]), place["split"]
    kind = builder_of(path)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        raise HfkitError(f"{path} is a saved data set, which is read in place: leave out streaming")
    try:
        source = builder_arguments(path) or {k: v for k, v in place.items() if k != "split"}
        builder = datasets.load_dataset_builder(**source)
        stream = builder.as_streaming_dataset()
        if split not in stream:
            raise ValueError(f"a stream has whole splits, here {[*stream]}, and no {split!r}")
        plan = {
            "source": source,
            "split": split,
            "state": str(builder.cache_dir),  # it names the state of the files, or the commit
            "columns": columns,
            "keep": [vars(test) for test in keep],
            "rows": entry.rows,
            "size": entry.tokens and entry.tokens * BYTES_PER_TOKEN,
            "seed": seed,
            "code": code_hash(),
        }
        # Without their types the first thousand rows would decide them: a column that is empty there holds nothing.
        known = stream[split].features or {}
        missing = [test.column for test in keep if known and test.column not in known]
        if missing:
            raise ValueError(f"no column {missing[0]!r} (for keep); it has {[*known]}")
        types = {name: known[name] for name in columns if name in known}
        features = Features({**types, LEFT_OUT_COLUMN: Value("int64")}) if types else None
        with progress_bars(entry.rows or 0):
            rows = Dataset.from_generator(stream_rows, features=features, gen_kwargs={"plan": plan})
    except Exception as error:  # whatever a reader says of a file's content
        raise read_error(path, kind, error) from error
    return rows.remove_columns(LEFT_OUT_COLUMN), rows[-1][LEFT_OUT_COLUMN]


def stream_rows(plan: dict) -> Iterator[dict]:
    """The rows that `take_rows` takes; `plan` also holds what tells one cached result from another."""
    tests = [Keep(**test) for test in plan["keep"]]
    stream = datasets.load_dataset(**plan["source"], split=plan["split"], streaming=True)
    count, read, left_out = 0, 0, 0
    for row in stream.shuffle(seed=plan["seed"], buffer_size=BUFFER):
        if not all(test(row) for test in tests):
            left_out += 1
            continue
        row = {name: row[name] for name in plan["columns"] if name in row}
        yield row | {LEFT_OUT_COLUMN: left_out}
        count, read = count + 1, read + text_size(row)
        if count == plan["rows"] or (plan["size"] and read >= plan["size"]):
            return
    if not count:
        raise ValueError("keep leaves none of the rows" if left_out else "it is empty")


def text_size(value: object) -> int:
    """UTF-8 bytes of all text in a row."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        value = [*value.values()]
    return sum(map(text_size, value)) if isinstance(value, list) else 0
