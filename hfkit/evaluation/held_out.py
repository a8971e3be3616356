"""Loads held-out rows, from a run's record or by name."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hfkit.config.evaluation import EvaluateConfig
from hfkit.config.fields import DatasetEntry
from hfkit.config.registry import spec_of
from hfkit.core.errors import HfkitError
from hfkit.data.caching import tokenizer_hash
from hfkit.data.columns import can_read
from hfkit.data.comparisons import COMPARISONS, comparison_encoder, encode_held_out, mask_of
from hfkit.data.conversions import prompt_of
from hfkit.data.faults import Fault, split_faults
from hfkit.data.forms import IGNORE, INSTRUCTIONS, TEXT, encode_instructions, instruction_encoder
from hfkit.data.messages import Messages
from hfkit.data.packing import pack_documents
from hfkit.data.source_rows import source_form
from hfkit.data.splits import SplitStats, load_rows, load_splits
from hfkit.records.record import record_of


@dataclass
class HeldOut:
    """Held-out rows, not yet encoded.

    Args:
        stats: statistics of the rows.
        are_pairs: whether they are comparisons, else instructions or texts.
        max_length: the most tokens that a row may have.
        of_policy: whether the comparisons are those of a language model, which predicts the chosen responses.
        config: of the run that held them out; None for named rows.
    """

    rows: Dataset
    stats: SplitStats
    are_pairs: bool
    max_length: int
    of_policy: bool = False
    config: dict | None = None

    @property
    def are_packed(self) -> bool:
        """Whether the run's trainer evaluates on rows into which these texts are packed."""
        return self.config is not None and "block_size" in self.config

    def encoded(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> tuple[Dataset, SplitStats]:
        """Return the rows as their stage evaluates them, at most `context` tokens long, and their statistics.

        Packed texts have the column `bytes`, the bytes of the predicted tokens.

        Raises:
            HfkitError: no row can be encoded.
        """
        length = min(self.max_length, context or self.max_length)
        options = SimpleNamespace(max_length=length, dataset_num_proc=None, max_dropped=1.0, score_margin=0.0)
        stats = replace(self.stats, dropped=dict(self.stats.dropped))
        if self.are_packed:
            options.block_size, options.packing = length, self.config["packing"]
            return packed_rows(*pack_documents(self.rows, tokenizer, stats, options)), stats
        encode = partial(encode_held_out, as_rankings=False) if self.are_pairs else encode_instructions
        rows = encode(self.rows, tokenizer, stats, options)
        if self.of_policy:
            return labeled(rows, 0), stats
        return rows if self.are_pairs or self.config is None else rows.map(without_first_label), stats

    def shared_by(self, readers: list[tuple[PreTrainedTokenizerBase, int | None]]) -> "HeldOut":
        """Return the rows for comparing models, given by their tokenizers and contexts (in tokens, None if unlimited).

        Rows are truncated at the shortest context. If tokenizers differ, a row that one would truncate or drop is left
        out.

        Raises:
            HfkitError: no row is left.
        """
        limit = min([self.max_length, *(context for _, context in readers if context)])
        limited = replace(self, max_length=limit)
        if self.are_packed or len({tokenizer_hash(tokenizer) for tokenizer, _ in readers}) == 1:
            return limited
        complete = np.logical_and.reduce([limited.fit(tokenizer) for tokenizer, _ in readers])
        if not complete.any():
            raise HfkitError(f"no held-out row fits into {limit} tokens of each model: evaluate the models one by one")
        indices, lost = np.flatnonzero(complete), int((~complete).sum())
        stats = replace(self.stats, kept=len(indices), dropped={"not whole for every model": lost} if lost else {})
        return replace(limited, rows=self.rows.select(indices), stats=stats)

    def fit(self, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
        """Return whether each row fits without being dropped or truncated by a tokenizer: bool (N,)."""
        if self.are_pairs:
            encoder = comparison_encoder(tokenizer, self.max_length, self.rows)
        else:
            encoder = instruction_encoder(tokenizer, self.max_length)
        encoded = encoder(self.rows, self.stats.name, None).select_columns(["dropped", "cut", "faults"])
        shortened = (Fault.REPLY_TOO_LONG in split_faults(row["faults"]) for row in encoded)
        lost = [row["dropped"] or row["cut"] or short for row, short in zip(encoded, shortened, strict=True)]
        return np.array([not one for one in lost])


def find_held_out(
    record: dict, are_pairs: bool, limit: int, entries: list[DatasetEntry] | None = None, seed: int | None = None
) -> HeldOut:
    """Load held-out rows of a run, `limit` at most.

    Args:
        record: of the run. PPO's rows have no responses, so the rows of the model that it started from are loaded.
        are_pairs: whether it is the run of a reward model; the rows of a policy may be pairs too.
        entries: datasets to use instead of those that the record names.
        seed: of the random choice among more than `limit` rows; None takes the first ones.

    Raises:
        HfkitError: no rows were held out, they cannot be read, or they have changed since training.
    """
    if (start := prompted_start(record)) and not entries:
        record = record_of(start["path"], start["revision"] or "main") or {}
    spec, settings = spec_of(record.get("stage")), record.get("config") or {}
    form = spec.form if spec else None
    of_policy = not are_pairs and (hold_comparisons(entries, form) if entries else form == "comparisons")
    columns = TEXT if form == "text" and not entries else INSTRUCTIONS
    rows, sources = load_held_out_rows(record, COMPARISONS if are_pairs or of_policy else columns, entries)
    if len(rows) > limit:
        indices = range(limit) if seed is None else np.random.default_rng(seed).choice(len(rows), limit, replace=False)
        rows = rows.select(sorted(indices))
    stats = SplitStats("test", sources, len(rows), len(rows))
    length = settings.get("max_length") or settings.get("block_size") or 1024
    return HeldOut(rows, stats, are_pairs or of_policy, length, of_policy, None if entries else settings)


def load_held_out_rows(
    record: dict, columns: list[str], entries: list[DatasetEntry] | None
) -> tuple[Dataset, list[dict]]:
    """Return all held-out rows of a run, or those of `entries`, and their sources.

    Raises:
        HfkitError: as `find_held_out`.
    """
    settings, data, seed = record.get("config") or {}, record.get("data") or {}, record.get("seed") or 0
    if held_out := entries or [DatasetEntry(**entry) for entry in settings.get("eval_datasets") or []]:
        rows, stats = load_rows("test", held_out, columns, seed=seed)
        rows, split = stats.capped(rows), "test"
    elif (size := settings.get("test_split_size")) and settings.get("datasets"):
        config = SimpleNamespace(eval_datasets=None, test_split_size=size, seed=seed)
        config.datasets = [DatasetEntry(**entry) for entry in settings["datasets"]]
        split = "train"
        _, rows, splits = load_splits(config, columns)
        stats = splits[split]
    else:
        raise HfkitError("the record of the model names no held-out rows")
    if not entries:
        recorded = (data.get(split) or {}).get("sources")
        if not recorded:
            raise HfkitError("the record of the model does not identify its held-out rows")
        before, now = ([source.get("sha256") for source in of] for of in (recorded, stats.sources))
        if before != now:
            raise HfkitError("the held-out rows have changed since training")
    return rows, stats.sources


def hold_comparisons(entries: list[DatasetEntry], form: str | None) -> bool:
    """Return whether datasets that are evaluated on by a policy hold pairs or rankings.

    Args:
        form: of the rows that the policy was trained on. If these were comparisons, rows that can be read both as
            comparisons and as instructions, such as those of KTO, count as comparisons.

    Raises:
        HfkitError: the rows cannot be read.
    """

    def can_be(entry: DatasetEntry, columns: list[str], named: set[str]) -> bool:
        found = source_form(entry, columns)
        return can_read(columns, found) if found else bool(named & {*(entry.columns or {})})

    are_comparisons = all(can_be(entry, COMPARISONS, {"chosen", "replies"}) for entry in entries)
    instructions = {*INSTRUCTIONS} - {"prompt", "tools"}
    are_instructions = all(can_be(entry, INSTRUCTIONS, instructions) for entry in entries)
    return are_comparisons and (form == "comparisons" or not are_instructions)


def labeled(pairs: Dataset, side: int) -> Dataset:
    """Return encoded pairs with the `input_ids` and `labels` of their chosen (side 0) or rejected replies (1)."""

    def label(row: dict) -> dict:
        ids = row[("chosen_ids", "rejected_ids")[side]]
        mask = mask_of(row["spans"][side], len(ids))
        return {
            "input_ids": ids,
            "labels": [token if is_reply else IGNORE for token, is_reply in zip(ids, mask, strict=True)],
        }

    return pairs.map(label)


def packed_rows(rows: Dataset, tokens_per_byte: float) -> Dataset:
    """Return packed texts as rows of `input_ids`, `labels` and `bytes`; documents of a row attend to each other."""
    if "seq_lengths" in rows.column_names:
        rows = rows.map(unpack_documents, batched=True, remove_columns=rows.column_names)

    def complete(row: dict) -> dict:
        return {"labels": [IGNORE, *row["input_ids"][1:]], "bytes": (len(row["input_ids"]) - 1) / tokens_per_byte}

    return rows.map(complete)


def unpack_documents(batch: dict) -> dict:
    """Return the documents of packed rows, one row each."""
    documents = []
    for ids, lengths in zip(batch["input_ids"], batch["seq_lengths"], strict=True):
        ends = np.cumsum(lengths)
        documents += [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return {"input_ids": documents}


def without_first_label(row: dict) -> dict:
    """Return a row without a label for its first token, which its trainer does not predict."""
    return {"labels": [IGNORE, *row["labels"][1:]]}


def load_held_out(config: EvaluateConfig, are_pairs: bool) -> HeldOut:
    """Load the held-out rows that a config names, else those of the model's record; see `find_held_out`."""
    record = record_of(config.model_name_or_path, config.model_revision) or {}
    try:
        return find_held_out(record, are_pairs, config.max_rows, config.datasets, config.seed)
    except HfkitError as error:
        unseen = "pairs" if are_pairs else "rows"
        raise HfkitError(f"{error}\nName {unseen} that were not trained on: --datasets FILE") from error


def prompted_start(record: dict) -> dict | None:
    """Return the lineage entry of the model that a run started from if the run's rows are prompts without responses."""
    spec = spec_of(record.get("stage"))
    return start_of(record) if spec is not None and spec.form == "prompts" else None


def start_of(record: dict) -> dict | None:
    """Return the lineage entry of the model that a run started from; None if there is none."""
    return next((parent for parent in record.get("lineage", []) if parent["role"] == "start"), None)


def prompt_and_reply(row: dict) -> tuple[str | Messages, str | None] | None:
    """Return the prompt of a row, and its response if it is text, else None; None for a row without a prompt."""
    prompt = prompt_of(row)
    if not prompt:
        return None
    following = (row.get("messages") or [])[len(prompt) :]
    reply = following[0]["content"] if following else row.get("response") or row.get("completion")
    return prompt, reply if isinstance(reply, str) else None
