"""Reads a sample of each source as the stages do, to find which stage can read it and how long its rows are."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from hfkit.commands.data.survey import load_source, part_spans
from hfkit.config.fields import DatasetEntry
from hfkit.config.registry import STAGES
from hfkit.core.errors import HfkitError
from hfkit.data.forms import FORMS, IGNORE

SAMPLE = 500
"""Number of first rows of a source that are encoded."""
NO_LIMIT = 1_000_000
"""Most tokens of a row in the sample, so that lengths are measured before truncation."""


@dataclass(frozen=True)
class SampledSource:
    """A source as a stage reads it.

    Attributes:
        entry: the source, with the columns that the stage reads.
        mapped: the stage's columns -> expressions over the dataset's columns; None if nothing is mapped.
        rows: number of rows; None if the source is not on this machine and has more rows than the sample.
        sampled: rows of the sample.
        lengths: tokens of each row of the sample that the stage keeps.
        needed: the shortest limit of the length at which the stage keeps each of them; SFT only cuts longer rows.
        replies: tokens of each response in the sample, if the stage trains on them.
    """

    entry: DatasetEntry
    mapped: dict[str, str | None]
    rows: int | None
    sampled: int
    lengths: list[int]
    needed: list[int]
    replies: list[int]

    @property
    def name(self) -> str:
        """The name of the source's card, or its path."""
        return str(self.entry.card or self.entry.path)


def sample_sources(stages: list[str], entries: list[DatasetEntry], tokenizer) -> dict[str, list[SampledSource]]:
    """Return the sources that each stage can read. Instructions may be the better responses of pairs, if there are
    none.

    Raises:
        HfkitError: no stage can read one of the sources; the message says why.
    """
    found: dict[str, list[SampledSource]] = {stage: [] for stage in stages}
    unread = []
    for entry in entries:
        faults = []
        for stage in stages:
            try:
                found[stage].append(sample_source(stage, entry, tokenizer))
            except HfkitError as error:
                faults.append(f"{stage}: {error}")
        if len(faults) == len(stages):
            unread.append("\n  ".join([f"{entry.card or entry.path}: no stage can read it", *faults]))
    if unread:
        raise HfkitError("\n".join(unread))
    pairs = {one.name: one for stage in stages if STAGES[stage].form == "comparisons" for one in found[stage]}
    for stage in stages:
        if STAGES[stage].form == "instructions" and not found[stage]:
            found[stage] = [one for pair in pairs.values() if (one := better_replies(stage, pair, tokenizer))]
    return found


def better_replies(stage: str, pairs: SampledSource, tokenizer) -> SampledSource | None:
    """Return the better responses of pairs as instructions, or None if the stage cannot read them."""
    if pairs.entry.card or pairs.entry.columns:
        return None
    prompt, chosen = (pairs.mapped.get(name) or name for name in ("prompt", "chosen"))
    for columns in ({"prompt": prompt, "response": chosen}, {"messages": chosen}):
        try:
            return sample_source(stage, replace(pairs.entry, columns=columns), tokenizer)
        except HfkitError:
            continue
    return None


def sample_source(stage: str, entry: DatasetEntry, tokenizer) -> SampledSource:
    """Return a sample of a source as a stage reads it.

    Raises:
        HfkitError: the stage cannot read it, or keeps none of its rows.
    """
    spec = STAGES[stage]
    length_key = FORMS[spec.form].length_key
    config = spec.config_class(output_dir=".", **({length_key: NO_LIMIT} if length_key else {}))
    is_local = entry.path is not None and Path(entry.path).exists()
    part = entry if is_local else replace(entry, split=f"train[:{SAMPLE}]")
    source, encoder, _ = load_source(stage, config, "train", part, tokenizer)
    total = len(source.rows)
    encoded = [encoder.function(row) for row in source.rows.select(range(min(total, SAMPLE)))]
    kept = [row for row in encoded if not row["dropped"]]
    if not kept:
        reason, _ = Counter(row["dropped"] for row in encoded).most_common(1)[0]
        raise HfkitError(f"every row is dropped: {reason}")
    replies = [length for row in kept if "labels" in row for length in reply_lengths(row)]
    rows = total if is_local or total < SAMPLE else None
    lengths, needed = [row["length"] for row in kept], [needed_length(row) for row in kept]
    return SampledSource(entry, source.mapped, rows, len(encoded), lengths, needed, replies)


def needed_length(row: dict) -> int:
    """Return the shortest limit of the length at which a stage keeps an encoded row.

    A row of instructions is cut, and dropped only if no trained token is left; other rows are dropped if they are cut.
    """
    if "labels" not in row:
        return row["length"]
    parts = [row["labels"][span] for span in part_spans(row)]
    return min(next((index for index, label in enumerate(part, 1) if label != IGNORE), len(part)) for part in parts)


def reply_lengths(row: dict) -> list[int]:
    """Return the tokens of each response in an encoded row of instructions: of each run of tokens that are trained."""
    parts = (groupby(row["labels"][span], key=lambda label: label != IGNORE) for span in part_spans(row))
    return [len([*run]) for runs in parts for is_trained, run in runs if is_trained]
