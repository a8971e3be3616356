"""Stores models and tokenizers that Python code passes as objects, by their content, and loads them from there."""

import hashlib
import os
from pathlib import Path

from huggingface_hub.constants import HF_HOME
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError
from hfkit.core.files import file_hash
from hfkit.core.temporary import remove_leftovers, temporary_folder
from hfkit.models.reward_model import RewardModel
from hfkit.models.saving import save_model
from hfkit.models.tokenizers import read_tokenizer

Loaded = PreTrainedModel | PeftModel | PreTrainedTokenizerBase | RewardModel | tuple
"""A model, a tokenizer, the result of `load_reward`, or a model with its tokenizer, as from `load_policy`."""


def store_model(loaded: Loaded) -> str:
    """Save a model or a tokenizer to a folder in `HF_HOME`, named by the hash of its files; return the folder.

    A model without its tokenizer gets the tokenizer at the path that it was loaded from.

    Raises:
        HfkitError: a model is quantized, or its tokenizer is not found.
    """
    root = Path(HF_HOME) / "hfkit" / "models"
    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    with temporary_folder(root / "model") as unfinished:
        if isinstance(loaded, PreTrainedTokenizerBase):
            loaded.save_pretrained(unfinished)
        else:
            save_model(*model_and_tokenizer(loaded), unfinished)
        folder = root / files_hash(unfinished)[:16]
        if not folder.is_dir():
            os.rename(unfinished, folder)
    return str(folder)


def model_and_tokenizer(loaded: Loaded) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a passed object; see `store_model`."""
    if isinstance(loaded, RewardModel):
        return loaded.model, loaded.tokenizer
    model, tokenizer = loaded if isinstance(loaded, tuple) else (loaded, None)
    if getattr(model, "is_quantized", False) and not isinstance(model, PeftModel):
        raise HfkitError("the model is quantized: pass its path, with load_in_4bit or load_in_8bit")
    if tokenizer is None:
        try:
            tokenizer = read_tokenizer(model.name_or_path)
        except HfkitError as error:
            raise HfkitError(f"{error}: pass the model with its tokenizer, (model, tokenizer)") from error
    return model, tokenizer


def files_hash(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of the files in a folder."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    hashed = "".join(f"{name} {file_hash(folder / name)}\n" for name in names)
    return hashlib.sha256(hashed.encode()).hexdigest()
