"""Pack several documents into one row: concatenated, or side by side without attention to each other.

    concatenate  documents one after another, cut into rows of equal length; a document attends to those before it.
    documents    whole documents fill a row; positions restart at each document, and attention stays within it.

Positions separate the documents: Transformers makes the mask (or flash attention's lengths) from them. Not every
architecture supports that, so a stage tests its model first: see `require_separation`.
"""

from collections import Counter
from functools import partial

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from huggingface_hub import is_offline_mode
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, Trainer
from transformers.utils import is_flash_attn_2_available
from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hfkit.core.compat import attention_of, supports_flash_attention
from hfkit.core.console import say
from hfkit.core.device import has_bf16
from hfkit.core.errors import HfkitError
from hfkit.data import faults
from hfkit.data.caching import cached_map, process_count
from hfkit.data.encoding import check_losses, drop_empty_texts, iter_texts
from hfkit.data.files import progress_bars
from hfkit.data.splits import SplitStats

# Each batch leaves a row that is not full, so batches are large. An Arrow list holds at most 2^31 tokens, and some
# batches hold more than others.
LARGE, TOKENS = 100_000, 2**28
# Thresholds, in units of the logits' standard deviation. If documents are separated, the leak is 0 except for the
# rounding of 8-bit layers, and the shift at most 2e-6 in float32; no architecture that leaks was below 7e-3.
LEAK, SHIFT, SHIFT_ROUNDED = 3e-3, 1e-3, 0.1


def pack_documents(rows: Dataset, tokenizer, stats: SplitStats, config) -> tuple[Dataset, float]:
    """Return documents as rows of `block_size` token ids, packed as `config.packing` says.

    Each document ends with end-of-text. With packing: documents, it begins with end-of-text too, so that its first
    token is predicted from end-of-text in both ways; a document longer than a row continues in another one.

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
        raise HfkitError(f"{stats}\nThese do not fill one row of block_size={config.block_size}: lower it.")
    return packed, lengths.sum() / size


def batch_of(lengths: np.ndarray) -> dict:
    """Return how many rows are packed at a time, given (N,) the tokens of each row, as an option of `pack_dataset`."""
    return {"batch_size": int(min(LARGE, max(1, TOKENS // max(1, lengths.mean()))))}


def document_rows(batch: dict, tokenizer, begins: bool) -> dict:
    """Return documents as token ids, each with end-of-text at its end, and at its start if `begins`."""
    begin = [tokenizer.eos_token_id] * begins
    encoded = tokenizer(batch["text"], add_special_tokens=False).input_ids
    return {"input_ids": [[*begin, *ids, tokenizer.eos_token_id] for ids in encoded]}


def pack_conversations(rows: Dataset, config) -> Dataset:
    """Pack encoded SFT rows, whole, into rows of up to `max_length` tokens, with `seq_lengths`."""
    with progress_bars(len(rows)):
        batch = batch_of(np.minimum(rows["length"][:], config.max_length))
        return pack_dataset(rows.select_columns(["input_ids", "labels"]), config.max_length, "bfd", batch)


def separating_collator(tokenizer) -> DataCollatorForLanguageModeling:
    """Return a collator that joins rows to one of (1, tokens); no document predicts the start of the next one."""
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id, padding_free=True)


def packed_attention(config, model_config: PreTrainedConfig) -> str | None:
    """Return the attention to load a model with that is to separate packed rows; what the config says wins.

    Flash attention where it is installed, the model has it and the GPU computes in bf16: it takes documents as lengths.
    Other implementations compute a whole row for each document, and this reports it.
    """
    if config.attn_implementation:
        return config.attn_implementation
    has_model = type(model_config) in MODEL_FOR_CAUSAL_LM_MAPPING
    is_possible = has_model and supports_flash_attention(MODEL_FOR_CAUSAL_LM_MAPPING[type(model_config)])
    is_bf16 = config.bf16 is not False and not config.extra.get("fp16") and has_bf16()
    if is_possible and is_bf16 and is_flash_attn_2_available(kernels_fallback_ok=not is_offline_mode()):
        return "flash_attention_2"
    remedy = " (pip install 'hfkit[kernels]' for flash attention)" if is_possible and is_bf16 else ""
    say(f"packing: attention is computed over the whole row, and masked between documents{remedy}")
    return None


@torch.no_grad()
def require_separation(trainer: Trainer) -> None:
    """Test with three short forward passes that the trainer's model separates the documents that its collator packs.

    Raises:
        HfkitError: the logits of a document depend on another document in its row, or on its position there.
    """
    model = trainer.model
    vocabulary = model.get_input_embeddings().num_embeddings
    one, other, last = (torch.arange(start, start + 12).remainder(vocabulary).tolist() for start in (3, 31, 59))

    def logits(*documents: list[int]) -> torch.Tensor:
        ids = [token for document in documents for token in document]
        batch = trainer.data_collator([{"input_ids": ids, "seq_lengths": [len(ids) for ids in documents]}])
        del batch["labels"]
        with trainer.accelerator.autocast():
            return model(**send_to_device(batch, model.device)).logits[0, -len(last) :]

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
            f"packing: {config.model_type} under attn_implementation={attention_of(config)} does not keep the "
            f"documents of a row apart (logits differ by {max(leak, shift):.2g} standard deviations): leave packing "
            "out, or try another attn_implementation"
        )
