"""Writing a trained model as an ordinary Transformers or PEFT folder."""

from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Weights (an adapter alone, where there is one), tokenizer with its template, generation config.

    An adapter is saved without the base's embeddings: hfkit adds no tokens, so they are those of the base.
    """
    options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card, which names the base by its path
    tokenizer.save_pretrained(folder)
    if model.can_generate() if hasattr(model, "can_generate") else False:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = _with_eos(model.generation_config.eos_token_id, tokenizer.eos_token_id)
        model.generation_config.save_pretrained(folder)


def _with_eos(stops: int | list[int] | None, eos: int) -> int | list[int]:
    """The stop tokens of a generation config, the tokenizer's EOS among them."""
    if stops is None:
        return eos
    stops = stops if isinstance(stops, list) else [stops]
    return stops if eos in stops else [*stops, eos]
