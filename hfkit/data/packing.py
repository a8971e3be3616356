"""Several documents in one row: concatenated, or side by side without seeing each other.

    concatenate  documents one after another, cut into rows of equal length; a document sees those before it in its row.
    documents    whole documents fill a row; positions start anew with each, and attention ends where it ends.

Documents are kept apart by their positions: Transformers makes the mask (or flash attention's lengths) from them. Not
every architecture does, so a stage tries its model first: see `require_separation`.
"""

from collections import Counter
from functools import partial

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import Trainer
from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.data.caching import cached_map, process_count
from hfkit.data.encoding import check_losses, iter_texts, drop_empty_texts
from hfkit.data.files import progress_bars
from hfkit.data.splits import SplitStats

# What is left over at the end of a batch makes a row that is not full: make the batches large. A list of Arrow's holds
# 2^31 tokens, and some batches hold more than others.
LARGE, TOKENS = 100_000, 2**28
# In units of the logits' standard deviation. Where documents are kept apart, those of the first kind are 0 but for the
# rounding of 8-bit layers, those of the second at most 2e-6 in float32; no architecture that leaks was below 7e-3.
LEAK, SHIFT, SHIFT_ROUNDED = 3e-3, 1e-3, 0.1


def pack_documents(rows: Dataset, tokenizer, account: SplitStats, config) -> tuple[Dataset, float]:
    """Documents as rows of `block_size` token ids, in the manner of `config.packing`.

    Each document ends with end-of-text. Where it is not simply what comes before it, end-of-text stands at its
    beginning too, so that its first token is predicted from the same; a document longer than a row is continued in
    another.

    Returns:
        the rows, with `seq_lengths` where documents are apart; and the tokens per byte of UTF-8 text (bits per byte are
        bits per token times this).

    Raises:
        HfkitError: they fill no row, or a larger share than `config.max_dropped` was dropped.
    """
    begins = config.packing == "documents"
    with progress_bars(len(rows)):
        texts = drop_empty_texts(rows, account)
        check_losses(account, config.max_dropped, "Mend the rows")
        found, size = Counter(), 0
        for column in iter_texts(texts):
            found.update(faults.of_column(column, tokenizer))
            size += pc.sum(pc.binary_length(column)).as_py()
        account.faults = dict(found)
        options = {"batched": True, "num_proc": process_count(config.dataset_num_proc, len(texts))}
        options |= {"remove_columns": texts.column_names, "desc": f"Tokenizing {account.name}"}
        documents = cached_map(texts, partial(document_rows, tokenizer=tokenizer, begins=begins), **options)
        lengths = pc.list_value_length(documents.data["input_ids"]).to_numpy() - begins
        documents = account.mix(documents, lengths)
        packed = pack_dataset(documents, config.block_size, "bfd_split" if begins else "wrapped", batch_of(lengths))
        if not begins:
            packed = packed.filter(lambda ids: len(ids) == config.block_size, input_columns="input_ids")
    if len(packed) == 0:
        raise HfkitError(f"{account}\nThese do not fill one row of block_size={config.block_size}: lower it.")
    return packed, lengths.sum() / size


def batch_of(lengths: np.ndarray) -> dict:
    """How many rows are packed at a time, by the tokens that each has."""
    return {"batch_size": int(min(LARGE, max(1, TOKENS // max(1, lengths.mean()))))}


def document_rows(batch: dict, tokenizer, begins: bool) -> dict:
    """Documents as token ids, each closed by the end-of-text token, and begun by it if asked for."""
    begin = [tokenizer.eos_token_id] * begins
    encoded = tokenizer(batch["text"], add_special_tokens=False).input_ids
    return {"input_ids": [[*begin, *ids, tokenizer.eos_token_id] for ids in encoded]}


def pack_conversations(rows: Dataset, config) -> Dataset:
    """Encoded rows of SFT, whole, as rows of up to `max_length` tokens with the `seq_lengths` of those in them."""
    with progress_bars(len(rows)):
        batch = batch_of(np.minimum(rows["length"][:], config.max_length))
        return pack_dataset(rows.select_columns(["input_ids", "labels"]), config.max_length, "bfd", batch)


def separating_collator(tokenizer) -> DataCollatorForLanguageModeling:
    """Joins rows to one of (1, tokens) with the `position_ids` of each document; none predicts the next one's start."""
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id, padding_free=True)


@torch.no_grad()
def require_separation(trainer: Trainer) -> None:
    """Tries whether the trainer's model keeps documents apart that its collator packs; costs three short passes.

    Raises:
        HfkitError: the logits of a document hang on another one in its row, or on its place there.
    """
    model = trainer.model
    vocabulary = model.get_input_embeddings().num_embeddings
    one, other, last = (torch.arange(start, start + 12).remainder(vocabulary).tolist() for start in (3, 31, 59))

    def logits(*documents: list[int]) -> torch.Tensor:
        ids = [token for document in documents for token in document]
        batch = trainer.data_collator([{"input_ids": ids, "seq_lengths": [len(ids) for ids in documents]}])
        del batch["labels"]
        with trainer.accelerator.autocast():
            return model(**{name: value.to(model.device) for name, value in batch.items()}).logits[0, -len(last) :]

    was_training = model.training
    model.eval()
    try:
        packed, beside_other, alone = logits(one, last), logits(other, last), logits(last)
    finally:
        model.train(was_training)
    unit = alone.float().std()
    leak, shift = (float((packed - logits).abs().max() / unit) for logits in (beside_other, alone))
    is_exact = packed.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    if leak > LEAK or shift > (SHIFT if is_exact else SHIFT_ROUNDED):
        config = model.config.get_text_config()
        raise HfkitError(
            f"packing: {config.model_type} under attn_implementation={config._attn_implementation} does not keep the "
            f"documents of a row apart (logits differ by {max(leak, shift):.2g} standard deviations): leave packing "
            "out, or try another attn_implementation"
        )
