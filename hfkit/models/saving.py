"""Saves a trained model as a standard Transformers or PEFT folder."""

from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the weights (only the adapter's if there is one), the tokenizer and the generation config.

    An adapter is saved without the base's embeddings, which stay the base's: hfkit adds no tokens.
    """
    options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card names the base by its local path
    tokenizer.save_pretrained(folder)
    if model.can_generate() if hasattr(model, "can_generate") else False:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = _with_eos(model.generation_config.eos_token_id, tokenizer.eos_token_id)
        model.generation_config.save_pretrained(folder)


def _with_eos(stop_token_ids: int | list[int] | None, eos: int) -> int | list[int]:
    """Return the stop token ids of a generation config with the tokenizer's EOS."""
    if stop_token_ids is None:
        return eos
    ids = stop_token_ids if isinstance(stop_token_ids, list) else [stop_token_ids]
    return ids if eos in ids else [*ids, eos]
