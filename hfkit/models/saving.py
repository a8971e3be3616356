"""Saves a trained model as a standard Transformers or PEFT folder."""

from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.data.turn_end import turn_end_ids


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
        given, ends = generation.eos_token_id, turn_end_ids(tokenizer)
        if given is None:
            generation.eos_token_id = ends if len(ends) > 1 else ends[0]
        else:
            given = given if isinstance(given, list) else [given]
            generation.eos_token_id = [*given, *(token for token in ends if token not in given)]
        generation.save_pretrained(folder)
