"""Collates packed rows for models that keep their documents apart."""

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


def separating_collator(tokenizer) -> DataCollatorForLanguageModeling:
    """Return a collator that joins rows into one row (1, tokens); no document predicts the start of the next one."""
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id, padding_free=True)
