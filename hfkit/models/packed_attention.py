"""Chooses the attention for packed rows, collates them, and tests that their documents are separated."""

import torch
from accelerate.utils import send_to_device
from huggingface_hub import is_offline_mode
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, Trainer
from transformers.utils import is_flash_attn_2_available
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hfkit.core.compat import attention_of, supports_flash_attention
from hfkit.core.console import say
from hfkit.core.device import has_bf16
from hfkit.core.errors import HfkitError
from hfkit.models import varlen_attention

# Thresholds in standard deviations of the logits. For separated documents the leak is 0, except for the rounding of
# 8-bit layers, and the shift at most 2e-6 in float32; no architecture that leaks was below 7e-3.
LEAK, SHIFT, SHIFT_ROUNDED = 3e-3, 1e-3, 0.1


def packed_attention(config, model_config: PreTrainedConfig) -> str | None:
    """Return the attention implementation for a model that must separate packed documents; the config's has priority.

    If the model supports flash attention and the GPU computes in bf16: flash attention if installed, else PyTorch's
    kernel. Both take the lengths of documents. Others compute attention over the whole row, which is reported.
    """
    if config.attn_implementation:
        return config.attn_implementation
    has_model = type(model_config) in MODEL_FOR_CAUSAL_LM_MAPPING
    is_possible = has_model and supports_flash_attention(MODEL_FOR_CAUSAL_LM_MAPPING[type(model_config)])
    is_bf16 = config.bf16 is not False and not config.extra.get("fp16") and has_bf16()
    if is_possible and is_bf16 and is_flash_attn_2_available(kernels_fallback_ok=not is_offline_mode()):
        return "flash_attention_2"
    if is_possible and is_bf16 and varlen_attention.supports_varlen(model_config):
        return varlen_attention.VARLEN
    remedy = " (pip install 'hfkit[kernels]' for flash attention)" if is_possible and is_bf16 else ""
    say(f"packing: attention is computed over whole rows and masked between documents{remedy}")
    return None


def separating_collator(tokenizer) -> DataCollatorForLanguageModeling:
    """Return a collator that joins rows into one row (1, tokens); no document predicts the start of the next one."""
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id, padding_free=True)


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
        packed, after_other, alone = logits(one, last), logits(other, last), logits(last)
    finally:
        model.train(was_training)
    unit = alone.float().std()
    leak, shift = (float((packed - logits).abs().max() / unit) for logits in (after_other, alone))
    is_exact = packed.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    if leak > LEAK or shift > (SHIFT if is_exact else SHIFT_ROUNDED):
        config = model.config.get_text_config()
        raise HfkitError(
            f"packing: {config.model_type} with attn_implementation={attention_of(config)} does not separate the "
            f"documents of a row (logits differ by {max(leak, shift):.2g} standard deviations): remove packing, or "
            "try another attn_implementation"
        )
