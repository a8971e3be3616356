"""Data sets: from the entries of a config to the rows that a stage trains on, with an account of what was lost."""

import gzip
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset

from hfkit.config import DatasetEntry
from hfkit.errors import HfkitError, reason

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
NUMBERS = ("margin",)  # all other columns hold text or messages
# Fewer rows than these are tokenized before a progress bar would be read.
QUIET_ROWS = 20_000


@contextmanager
def bars(rows: int):
    """Progress bars of `datasets` where there is something to wait for."""
    quiet = rows < QUIET_ROWS and not datasets.are_progress_bars_disabled()
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            datasets.enable_progress_bars()


@dataclass
class Split:
    """What became of the rows of one split; kept in the run's record."""

    name: str
    sources: list[dict] = field(default_factory=list)
    rows: int = 0
    kept: int = 0
    cut: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    tokens: int = 0

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.rows:,} rows, {self.kept:,} kept"]
        if self.dropped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
            parts.append(f"{sum(self.dropped.values()):,} dropped ({reasons})")
        if self.cut:
            parts.append(f"{self.cut:,} cut")
        return ", ".join(parts) + f", {self.tokens:,} tokens"

    def as_dict(self) -> dict:
        return asdict(self)


def load_entry(entry: DatasetEntry, wanted: list[str], needed: list[str] | None = None) -> Dataset:
    """The rows of one entry, reduced to the columns in `wanted` that it has, and to those in `needed`.

    Args:
        needed: columns of any kind.

    Raises:
        HfkitError: no such file or data set, or a mapped or needed column that it lacks.
    """
    needed = needed or []
    path = Path(entry.path)
    kind = BUILDERS.get(next((suffix for suffix in path.suffixes[::-1] if suffix in BUILDERS), ""))
    try:
        if kind and path.is_file():
            with bars(0):
                rows = datasets.load_dataset(kind, data_files=str(path), split=entry.split)
        elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(str(path))
            splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
            if entry.split not in splits:
                raise ValueError(f"a saved data set has whole splits, here {[*splits]}, and no {entry.split!r}")
            rows = splits[entry.split]
        else:
            rows = datasets.load_dataset(entry.path, entry.name, revision=entry.revision, split=entry.split)
        rows.data.validate(full=True)  # JSON's reader lets bytes through that are not UTF-8
    except Exception as error:  # whatever a reader says of a file's content
        is_empty = path.is_file() and path.stat().st_size == 0
        why = "it is empty" if is_empty else broken_line(path) if kind in ("json", "text") else None
        raise HfkitError(f"cannot read the data set {entry.path}: {why or reason(error)}") from error
    columns = entry.columns or {}
    strange = [column for column in columns if column not in [*wanted, *needed]]
    if strange or len({*columns.values()}) < len(columns):
        wrong = f"maps to {strange}, which it does not read" if strange else "maps one column twice"
        raise HfkitError(f"{entry.path}: columns {columns} {wrong}; this stage reads {[*wanted, *needed]}")
    for column, theirs in columns.items():
        if theirs not in rows.column_names:
            raise HfkitError(f"{entry.path} has no column {theirs!r} (for {column}); it has {rows.column_names}")
    replaced = [column for column in columns if column in rows.column_names and column not in columns.values()]
    rows = rows.remove_columns(replaced).rename_columns({theirs: column for column, theirs in columns.items()})
    present = [column for column in wanted if column in rows.column_names]
    if not present:
        raise HfkitError(
            f"{entry.path} has the columns {rows.column_names}, and none that this stage reads ({wanted}); map them: "
            "datasets: [{path: ..., columns: {" + wanted[0] + ": YOUR_COLUMN}}]"
        )
    missing = [column for column in needed if column not in rows.column_names]
    if missing:
        raise HfkitError(f"{entry.path} has no column {missing[0]!r} (reward_columns); it has {rows.column_names}")
    rows = rows.select_columns([*present, *needed])
    for column in present:
        kind = rows.features[column]
        if isinstance(kind, datasets.Value) and not fits(column, kind.dtype):
            expected = "numbers" if column in NUMBERS else "text" if column == "text" else "text or messages"
            raise HfkitError(f"{entry.path}: the column {column!r} holds {kind.dtype}, and should hold {expected}")
    return with_plain_strings(rows)


def fits(column: str, dtype: str) -> bool:
    """Whether a column of plain values can be read: numbers where they are meant, else text (or nothing at all)."""
    return dtype == "null" or ("string" in dtype) != (column in NUMBERS)


def broken_line(path: Path) -> str | None:
    """The first line of a text file that its readers stumble over, with why; None where it is not a line's fault."""
    lines = path.suffix != ".json" and "json" in path.name
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    if lines and text.strip():
                        json.loads(text)
                except ValueError as error:
                    return f"line {number}: {reason(error)}"
    except (OSError, EOFError) as error:
        return reason(error)
    return None


def with_plain_strings(rows: Dataset) -> Dataset:
    """Text as Arrow's `string`, whichever reader it came from (that of CSV gives `large_string`)."""
    large = [name for name, kind in rows.features.items() if kind == datasets.Value("large_string")]
    if not large:
        return rows
    with bars(len(rows)):
        return rows.cast(datasets.Features({**rows.features, **dict.fromkeys(large, datasets.Value("string"))}))


def load_splits(
    config, wanted: list[str], needed: list[str] | None = None
) -> tuple[Dataset, Dataset | None, dict[str, Split]]:
    """Training rows, held-out rows (None where the config holds none out) and the account of both.

    Args:
        wanted, needed: columns, as for `load_entry`.

    Raises:
        HfkitError: a source cannot be read, or the sources of a split have different columns.
    """
    train, account = load_rows("train", config.datasets, wanted, needed)
    if getattr(config, "eval_datasets", None):
        test, test_account = load_rows("test", config.eval_datasets, wanted, needed)
        return train, test, {"train": account, "test": test_account}
    size = getattr(config, "test_split_size", None)
    if size is None:
        return train, None, {"train": account}
    try:
        parts = train.train_test_split(test_size=int(size) if size >= 1 else size, seed=config.seed)
    except ValueError as error:
        raise HfkitError(f"test_split_size={size:g} leaves nothing to train on of {len(train):,} rows") from error
    held_out = Split("test", [{"held_out_of": "train"}], len(parts["test"]), len(parts["test"]))
    account.rows = account.kept = len(parts["train"])
    return parts["train"], parts["test"], {"train": account, "test": held_out}


def load_rows(
    name: str, entries: list[DatasetEntry], wanted: list[str], needed: list[str] | None = None
) -> tuple[Dataset, Split]:
    """The rows of several sources, concatenated, with the account of the split that they make.

    Raises:
        HfkitError: a source cannot be read, or they have different columns.
    """
    tables = [load_entry(entry, wanted, needed) for entry in entries]
    columns = {entry.path: tuple(table.column_names) for entry, table in zip(entries, tables, strict=True)}
    if len(set(columns.values())) > 1:
        raise HfkitError(f"the data sets have different columns: {columns}; map them with columns: {{...}}")
    sources = [
        {**{k: v for k, v in asdict(entry).items() if v}, "rows": len(table), "sha256": content_hash(table)}
        for entry, table in zip(entries, tables, strict=True)
    ]
    rows = datasets.concatenate_datasets(tables) if len(tables) > 1 else tables[0]
    return rows, Split(name, sources, len(rows), len(rows))


def content_hash(rows: Dataset) -> str:
    """SHA-256 of the rows themselves, whatever file or cache they come from."""
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(1000):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
            stream.write_table(table.replace_schema_metadata(None).combine_chunks())
        digest.update(sink.getvalue())
    return digest.hexdigest()


@dataclass(frozen=True)
class Versioned:
    """A function over rows with the hash of the code behind it.

    `datasets` finds what it has cached by a function's name and arguments: without the hash, rows that an earlier
    version of hfkit encoded would be taken for those of this one.
    """

    function: Callable[[dict], dict]
    code: str

    @classmethod
    def of(cls, function: Callable[[dict], dict]) -> "Versioned":
        """With the hash of the modules that encode rows."""
        files = [Path(__file__).with_name(name) for name in ("data.py", "forms.py", "rendering.py")]
        return cls(function, hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest())

    def __call__(self, row: dict) -> dict:
        return self.function(row)


def encode(rows: Dataset, encoder: Callable[[dict], dict], account: Split, config) -> Dataset:
    """Applies a form's encoder to each row, drops what it rejects, and accounts for it.

    Args:
        encoder: row -> columns for the trainer; it also gives `dropped` (a reason, or "") and may give `cut` (bool).
            Its last column is counted for tokens where it is a list.

    Raises:
        HfkitError: no row is left, or a larger share than `config.max_dropped` was dropped or cut.
    """
    options = {"num_proc": config.dataset_num_proc, "desc": f"Tokenizing {account.name}"}
    with bars(len(rows)):
        encoded = rows.map(Versioned.of(encoder), remove_columns=rows.column_names, **options)
        reasons = Counter(reason for reason in encoded["dropped"] if reason)
        lengths = encoded["length"]
        account.cut = sum(encoded["cut"])
        kept = encoded.filter(lambda reason: not reason, input_columns="dropped") if reasons else encoded
    account.kept, account.dropped, account.tokens = len(kept), dict(reasons), sum(kept["length"])
    lost = sum(reasons.values()) + account.cut
    if len(kept) == 0 or lost > config.max_dropped * max(len(rows), 1):
        median = int(statistics.median(lengths)) if len(lengths) else 0
        raise HfkitError(
            f"{account}\nThe median row is {median} tokens long. Mend the rows, raise max_length (max_prompt_length "
            f"for PPO) if they are too long, or allow the loss with max_dropped (now {config.max_dropped})."
        )
    return kept.remove_columns(["dropped", "cut"])


def with_text(rows: Dataset, account: Split) -> Dataset:
    """The rows whose `text` is one; accounts for the others.

    Raises:
        HfkitError: there are none.
    """
    with bars(len(rows)):
        texts = rows.filter(lambda text: isinstance(text, str) and bool(text), input_columns="text")
    account.kept = len(texts)
    account.dropped = {"empty": account.rows - account.kept} if account.rows > account.kept else {}
    if not len(texts):
        raise HfkitError(f"{account}\nThere is nothing to learn from: mend the rows, or map another column to text.")
    return texts
