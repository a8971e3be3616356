"""Reads a sample of each source as the stages do: which stage can read it, and how long its rows are."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

from hfkit.commands.data.survey import load_source
from hfkit.commands.plan.steps import count_rows
from hfkit.config.fields import DatasetEntry
from hfkit.config.registry import STAGES
from hfkit.core.errors import HfkitError
from hfkit.data.encoding import PARTS
from hfkit.data.forms import FORMS, IGNORE

SAMPLE = 500
"""Rows that are read of a source: its first ones."""
NO_LIMIT = 1_000_000
"""Tokens of a row in the sample, which is measured before it is cut."""
BETTER_REPLY = ({"prompt": "prompt", "response": "chosen"}, {"messages": "chosen"})
"""Columns of pairs as instructions: the better reply is the response."""


@dataclass(frozen=True)
class Reading:
    """A source as a stage reads it.

    Attributes:
        entry: the source, with the columns that the stage reads.
        rows: rows of the source; None if it has more than the sample, and they cannot be counted.
        sampled: rows of the sample.
        lengths: tokens of each row of the sample that the stage keeps.
        replies: tokens of each reply in the sample, if the stage trains on them.
    """

    entry: DatasetEntry
    rows: int | None
    sampled: int
    lengths: list[int]
    replies: list[int]

    @property
    def name(self) -> str:
        """The path of the source, or the name of its card."""
        return str(self.entry.card or self.entry.path)


def read_sources(stages: list[str], entries: list[DatasetEntry], tokenizer) -> dict[str, list[Reading]]:
    """Return the sources that each stage can read. Instructions may be the better replies of pairs, if there are none.

    Raises:
        HfkitError: no stage can read one of the sources; the message says why.
    """
    readings: dict[str, list[Reading]] = {stage: [] for stage in stages}
    unread = []
    for entry in entries:
        faults = []
        for stage in stages:
            try:
                readings[stage].append(read_sample(stage, entry, tokenizer))
            except HfkitError as error:
                faults.append(f"{stage}: {error}")
        if len(faults) == len(stages):
            unread.append("\n  ".join([f"{entry.card or entry.path}: no stage can read it", *faults]))
    if unread:
        raise HfkitError("\n".join(unread))
    pairs = {one.name: one.entry for stage in stages if STAGES[stage].form == "comparisons" for one in readings[stage]}
    for stage in stages:
        if STAGES[stage].form == "instructions" and not readings[stage]:
            readings[stage] = [one for entry in pairs.values() if (one := better_replies(stage, entry, tokenizer))]
    return readings


def better_replies(stage: str, entry: DatasetEntry, tokenizer) -> Reading | None:
    """Return the better replies of pairs as instructions, or None if they cannot be read so."""
    if entry.card or entry.columns:
        return None
    for columns in BETTER_REPLY:
        try:
            return read_sample(stage, replace(entry, columns=columns), tokenizer)
        except HfkitError:
            continue
    return None


def read_sample(stage: str, entry: DatasetEntry, tokenizer) -> Reading:
    """Return a sample of a source as a stage reads it.

    Raises:
        HfkitError: the stage cannot read it, or keeps none of its rows.
    """
    spec = STAGES[stage]
    length_key = FORMS[spec.form].length_key
    config = spec.config_class(output_dir=".", **({length_key: NO_LIMIT} if length_key else {}))
    source, encoder, _ = load_source(stage, config, "train", replace(entry, split=f"train[:{SAMPLE}]"), tokenizer)
    encoded = [encoder.function(row) for row in source.rows]
    kept = [row for row in encoded if not row["dropped"]]
    if not kept:
        reason, _ = Counter(row["dropped"] for row in encoded).most_common(1)[0]
        raise HfkitError(f"every row is dropped: {reason}")
    replies = [length for row in kept if "labels" in row for length in reply_lengths(row)]
    return Reading(entry, total_rows(entry, len(encoded)), len(encoded), [row["length"] for row in kept], replies)


def reply_lengths(row: dict) -> list[int]:
    """Return the tokens of each reply in an encoded row of instructions: of each run of tokens that are trained."""
    labels, lengths = row["labels"], []
    ends = [*accumulate(row[PARTS] or [len(labels)])]
    for start, end in zip([0, *ends], ends, strict=False):
        runs = groupby(labels[start:end], key=lambda label: label != IGNORE)
        lengths += [len([*run]) for is_trained, run in runs if is_trained]
    return lengths


def total_rows(entry: DatasetEntry, sampled: int) -> int | None:
    """Return the rows of a source of whose first ones a sample was read; None if they cannot be counted."""
    if sampled < SAMPLE:
        return sampled
    try:
        return count_rows(entry)
    except HfkitError:
        return None
