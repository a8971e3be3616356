"""Saves a trained model as a standard Transformers or PEFT folder."""

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from hfkit.core.console import warn
from hfkit.core.errors import HfkitError, reason
from hfkit.core.hub_files import PROCESSOR_FILES
from hfkit.models.generation import stop_ids
from hfkit.records.source import find_file, read_json

TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Settings that decide whether others are valid; they are set first.
DECIDING = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Save the weights (only those of the adapter, if any), the tokenizer and the generation config.

    An adapter is saved without the base's embeddings, which do not change: hfkit adds no tokens. A whole multimodal
    model gets the files with which its base reads images.

    Args:
        weights: weights by their names in the model; None: those of the model.
    """
    options: dict = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    if weights is not None:
        options["state_dict"] = weights
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card names the base by its local path
    tokenizer.save_pretrained(folder)
    for file in processor_files(model):
        shutil.copyfile(file, folder / file.name)
    if model.can_generate():
        generation = model.generation_config
        generation.pad_token_id = tokenizer.pad_token_id
        ends = stop_ids(generation, tokenizer)
        generation.eos_token_id = ends[0] if generation.eos_token_id is None and len(ends) == 1 else ends
        generation.save_pretrained(folder)


def processor_files(model: PreTrainedModel | PeftModel) -> list[Path]:
    """Return the files with which a whole multimodal model reads images and sound; warn if the Hub does not answer."""
    path, names = model.name_or_path, PROCESSOR_FILES
    if isinstance(model, PeftModel) or model.config.get_text_config() is model.config or not path:
        return []
    try:
        return [file for file in (find_file(path, name) for name in names) if file]
    except HfkitError as error:  # the trained weights are already saved
        warn(f"the result cannot read images: copy {', '.join(names)} of {path} into its folder\n{error}")
        return []


def require_generation_config(path: str, revision: str = "main") -> None:
    """Raise HfkitError if the generation config at a path cannot be read; Transformers would silently use defaults."""
    settings = read_json(path, GENERATION_CONFIG_NAME, revision)
    try:
        GenerationConfig.from_dict(settings or {})
        fault = token_fault(settings or {})
    except Exception as error:  # its values may have any type
        fault = reason(error)
    if fault:
        raise HfkitError(f"the {GENERATION_CONFIG_NAME} of {path} is invalid: {fault}: correct it, or remove the file")


def token_fault(settings: dict) -> str | None:
    """Return which setting of a generation config should be token ids but is not, or None."""
    for name in TOKEN_KEYS:
        given = settings.get(name)
        ids = given if isinstance(given, list) else [] if given is None else [given]
        if any(type(one) is not int for one in ids):
            return f"{name} is {given!r}, not a token id"
    return None


def repair_generation_config(model: PreTrainedModel, path: str) -> None:
    """Make the generation config of a model from `path` valid; warn if it was not.

    Transformers loads an invalid config, but fails to save it after an id in it has changed: training would be lost.
    """
    if not model.can_generate():
        return
    config = model.generation_config
    if is_valid_generation_config(config):
        return
    settings = config.to_diff_dict()
    repaired, dropped = valid_part(settings)
    if config.do_sample is None:  # the authors recommend sampling but did not set the switch
        sampling, dropped_then = valid_part({**settings, "do_sample": True})
        if len(dropped_then) < len(dropped):
            repaired, dropped = sampling, dropped_then
    changes = ["do_sample: true added"] if repaired.do_sample and not config.do_sample else []
    changes += [f"{name}: {settings[name]!r} removed" for name in dropped]
    warn(f"the {GENERATION_CONFIG_NAME} of {path} is invalid; it will be saved with changes: {', '.join(changes)}")
    model.generation_config = repaired


def is_valid_generation_config(config: GenerationConfig) -> bool:
    """Return whether Transformers would save a generation config."""
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True


def valid_part(settings: dict) -> tuple[GenerationConfig, list[str]]:
    """Return a valid generation config of as many of the settings as possible, and the names of the others."""
    config, dropped = GenerationConfig(), []
    for name in sorted(settings, key=lambda name: name not in DECIDING):
        before = getattr(config, name, None)
        setattr(config, name, settings[name])
        if not is_valid_generation_config(config):
            setattr(config, name, before)
            dropped.append(name)
    return config, dropped
