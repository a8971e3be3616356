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
    if model.can_generate():
        generation = model.generation_config
        generation.pad_token_id = tokenizer.pad_token_id
        stop_token_ids, eos = generation.eos_token_id, tokenizer.eos_token_id
        if stop_token_ids is None:
            generation.eos_token_id = eos
        else:
            stop_token_ids = stop_token_ids if isinstance(stop_token_ids, list) else [stop_token_ids]
            generation.eos_token_id = stop_token_ids if eos in stop_token_ids else [*stop_token_ids, eos]
        generation.save_pretrained(folder)
