"""Survey a source of rows with a stage's own tokenizer and template: lengths, lost rows and faults."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import pyarrow.compute as pc

from hfkit.config.fields import DatasetEntry
from hfkit.config.registry import STAGES
from hfkit.core.files import hash_of
from hfkit.data.caching import cached_map
from hfkit.data.encoding import PARTS, Encoder, count_tokens, pair_lengths, warn_without_template
from hfkit.data.faults import Fault, count_faults
from hfkit.data.forms import FORMS, IGNORE
from hfkit.data.held_out import keys_of, overlap_mask
from hfkit.data.loaded_source import LoadedSource
from hfkit.data.mixture import Mixture
from hfkit.data.sources import read_entry

SPLITS = {"datasets": "train", "eval_datasets": "test", "ptx_datasets": "ptx"}


@dataclass
class Survey:
    """One source of one split.

    Attributes:
        notes: the format that was recognized, columns that are not read, roles that were renamed.
        form: of its rows, a name in `hfkit.data.forms.FORMS`.
        unit: of lengths: tokens, or bytes if there is no tokenizer yet.
        tokens: of the kept rows after truncation; `trained` are those in the loss.
        cut_tokens: truncated at the ends of kept rows.
        lengths: (rows,) tokens of each row (of its longest sequence) before truncation; also of dropped rows if known.
        limit: most tokens of a row; None if there is no limit.
        duplicates: rows that equal an earlier row of the source.
        longer: share of pairs whose better response is the longer one; None without pairs of different lengths.
        keys: (rows,) hashes of prompts, as `held_out.keys_of` returns them.
    """

    split: str
    name: str
    notes: list[str]
    form: str
    unit: str
    rows: int
    kept: int
    dropped: dict[str, int]
    cut: int
    faults: dict[Fault, int]
    tokens: int
    trained: int
    cut_tokens: int
    lengths: np.ndarray
    limit: int | None
    duplicates: int
    longer: float | None
    keys: np.ndarray = field(repr=False)


def surveys_of(stage: str, config, tokenizer) -> Iterator[Survey]:
    """Yield a survey of each source of a stage.

    Raises:
        HfkitError: a source cannot be read.
    """
    for key, split in SPLITS.items():
        for entry in getattr(config, key, []):
            yield survey(stage, config, split, entry, tokenizer)


def split_form(stage: str, split: str) -> str:
    """Return the name of the form of a stage's rows; those of `ptx_datasets` are instructions."""
    return "instructions" if split == "ptx" else STAGES[stage].form


def load_source(
    stage: str, config, split: str, entry: DatasetEntry, tokenizer
) -> tuple[LoadedSource, Encoder, int | None]:
    """Return one source as a stage reads it, the encoder of its rows, and the most tokens of a row."""
    form = FORMS[split_form(stage, split)]
    needed = [] if split == "ptx" else getattr(config, "reward_columns", [])
    source = read_entry(entry, form.columns, needed, config.seed)
    warn_without_template(source.rows, tokenizer, split)
    limit = form.length_key and getattr(config, f"ptx_{form.length_key}" if split == "ptx" else form.length_key)
    return source, form.encoder(source.rows, tokenizer, limit, config), limit


def survey(stage: str, config, split: str, entry: DatasetEntry, tokenizer) -> Survey:
    """Return the survey of one source."""
    source, encoder, limit = load_source(stage, config, split, entry, tokenizer)
    rows, name = source.rows, source.label
    encoded = encoder(rows, name, getattr(config, "dataset_num_proc", None))
    table = encoded.with_format("arrow")[:]
    lengths = table["length"].to_numpy()
    is_kept = pc.equal(table["dropped"], "").to_numpy()
    is_cut = table["cut"].to_numpy()
    tokens = count_tokens(encoded)
    trained = 0
    if "labels" in table.column_names:
        trained = pc.sum(pc.not_equal(pc.list_flatten(table["labels"]), IGNORE)).as_py() or 0
    dropped = {one["values"]: one["counts"] for one in pc.value_counts(table["dropped"]).to_pylist() if one["values"]}
    contents = cached_map(rows, content_key, remove_columns=rows.column_names)["key"][:] if len(rows) else []
    return Survey(
        split=split,
        name=name,
        notes=[*filter(None, [source.format or left_out_note(source)]), *source.notes()],
        form=split_form(stage, split),
        unit="bytes" if tokenizer is None else "tokens",
        rows=len(rows),
        kept=int(is_kept.sum()),
        dropped=dict(sorted(dropped.items(), key=lambda item: -item[1])),
        cut=int(is_cut.sum()),
        faults=count_faults(table["faults"].filter(is_kept).to_pylist()),
        tokens=int(tokens[is_kept].sum()),
        trained=trained,
        cut_tokens=int((lengths - tokens)[is_cut].sum()),
        lengths=lengths,
        limit=limit,
        duplicates=len(contents) - len({*contents}),
        longer=longer_share(table),
        keys=keys_of(rows),
    )


def part_spans(row: dict) -> list[slice]:
    """Return where each part of an encoded row of instructions is; a row that is not packed has one part."""
    ends = [*accumulate(row[PARTS] or [len(row["labels"])])]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def left_out_note(source: LoadedSource) -> str:
    """Return the line about the rows that `keep` or `drop_ties` left out, or ""."""
    return f"{source.left_out:,} more rows left out by keep or drop_ties" if source.left_out else ""


def content_key(row: dict) -> dict:
    """Return the hash of a whole row, 8 bytes in hexadecimal."""
    return {"key": hash_of(row)[:16]}


def longer_share(table) -> float | None:
    """Return the share of pairs whose better response has more tokens, without ties; None if all are ties."""
    if not {"chosen_ids", "reply_ids"} & {*table.column_names}:
        return None
    better, worse, _ = pair_lengths(table)
    differ = better != worse
    return float((better > worse)[differ].mean()) if differ.any() else None


def count_overlap(config, surveys: list[Survey]) -> int:
    """Return the number of training rows (also of `ptx_datasets`) whose prompts are in `eval_datasets`.

    If these have a budget of rows, only the rows that training holds out count.
    """
    trained = [one.keys for one in surveys if one.split != "test"]
    held_out = [one.keys for one in surveys if one.split == "test"]
    if not trained or not held_out:
        return 0
    source_of = np.repeat(np.arange(len(held_out)), [*map(len, held_out)])
    indices = Mixture(config.eval_datasets, source_of, config.seed).indices(np.ones(len(source_of)))
    return int(overlap_mask(np.concatenate(trained), np.concatenate(held_out)[indices]).sum())
