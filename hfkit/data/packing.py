"""Packs several documents into one row: concatenated, or separated, without attention to each other.

    concatenate  consecutive documents, cut into rows of equal length; a document attends to those before it.
    documents    whole documents fill a row; positions restart at each document, and attention stays within it.

Positions separate the documents: Transformers derives the mask (or flash attention's lengths) from them. Not every
architecture supports this, so a stage tests its model first: see `models/packed_attention.py`.
"""

from collections import Counter
from functools import partial

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from trl import pack_dataset

from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.data.caching import cached_map, process_count
from hfkit.data.encoding import check_losses, drop_empty_texts, iter_texts
from hfkit.data.progress import progress_bars
from hfkit.data.splits import SplitStats

# Each batch ends with a row that is not full, so batches are large. An Arrow list holds at most 2^31 tokens, and
# batches vary in size.
LARGE, TOKENS = 100_000, 2**28


def pack_documents(rows: Dataset, tokenizer, stats: SplitStats, config) -> tuple[Dataset, float]:
    """Return documents as rows of `block_size` token ids, packed as `config.packing` says.

    Each document ends with end-of-text. With packing: documents, it also begins with end-of-text, so that both modes
    predict its first token from end-of-text; a document longer than a row continues in another one.

    Returns:
        the rows, with `seq_lengths` if documents are separated; and the tokens per byte of UTF-8 text (bits per byte =
        bits per token times this).

    Raises:
        HfkitError: the documents fill no row, or a larger share than `config.max_dropped` was dropped.
    """
    begins = config.packing == "documents"
    with progress_bars(len(rows)):
        texts = drop_empty_texts(rows, stats)
        check_losses(stats, config.max_dropped, "Fix the rows")
        found, size = Counter(), 0
        for column in iter_texts(texts):
            found.update(faults.of_column(column, tokenizer))
            size += pc.sum(pc.binary_length(column)).as_py()
        stats.faults = dict(found)
        options = {"batched": True, "num_proc": process_count(config.dataset_num_proc, len(texts))}
        options |= {"remove_columns": texts.column_names, "desc": f"Tokenizing {stats.name}"}
        documents = cached_map(texts, partial(document_rows, tokenizer=tokenizer, begins=begins), **options)
        lengths = pc.list_value_length(documents.data["input_ids"]).to_numpy() - begins
        documents = stats.mix(documents, lengths)
        packed = pack_dataset(documents, config.block_size, "bfd_split" if begins else "wrapped", batch_of(lengths))
        if not begins:
            packed = packed.filter(lambda ids: len(ids) == config.block_size, input_columns="input_ids")
    if len(packed) == 0:
        raise HfkitError(f"{stats}\nThe documents do not fill one row of block_size={config.block_size}: lower it.")
    return packed, lengths.sum() / size


def batch_of(lengths: np.ndarray) -> dict:
    """Return how many rows are packed at a time as an option of `pack_dataset`, given the tokens of each row, (N,)."""
    return {"batch_size": int(min(LARGE, max(1, TOKENS // max(1, lengths.mean()))))}


def document_rows(batch: dict, tokenizer, begins: bool) -> dict:
    """Return documents as token ids, each ending with end-of-text, and starting with it if `begins`."""
    begin = [tokenizer.eos_token_id] * begins
    encoded = tokenizer(batch["text"], add_special_tokens=False).input_ids
    return {"input_ids": [[*begin, *ids, tokenizer.eos_token_id] for ids in encoded]}


def pack_conversations(rows: Dataset, config) -> Dataset:
    """Pack encoded SFT rows, whole, into rows of up to `max_length` tokens, with `seq_lengths`."""
    with progress_bars(len(rows)):
        batch = batch_of(np.minimum(rows["length"][:], config.max_length))
        return pack_dataset(rows.select_columns(["input_ids", "labels"]), config.max_length, "bfd", batch)
