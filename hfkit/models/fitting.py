"""Checks that an adapter and a tokenizer fit a base, before the weights of the base are loaded."""

import json
import warnings
from collections.abc import Hashable
from functools import lru_cache

from peft import LoraConfig, PeftModel, TaskType
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hfkit.core.errors import HfkitError, reason
from hfkit.core.files import folder_state
from hfkit.models.adapter_shape import HEADS, fit_to_model, get_on_meta, lora_config, on_meta
from hfkit.models.adapter_support import training_fault
from hfkit.models.adapters import load_adapter_weights
from hfkit.models.model_config import read_config
from hfkit.records.source import Source

LORA_KEYS = "lora_target_modules, modules_to_save or use_dora"


class NewAdapter:
    """The settings of an adapter that starts from another one, whose shape it keeps."""

    lora_r, lora_alpha, lora_dropout, use_rslora, lora_target_modules = None, None, 0.0, False, None


def model_on_meta(path: str, config: PreTrainedConfig, task_type: TaskType) -> PreTrainedModel:
    """Return the model at a path without weights.

    Raises:
        HfkitError: its config does not define such a model.
    """
    # some decoders, such as gpt_neox, set is_decoder: false
    is_encoder = getattr(config, "is_decoder", None) is False and type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if getattr(config, "is_encoder_decoder", False) or is_encoder:
        raise HfkitError(f"{config.model_type} is not a causal language model: start from a decoder, such as llama")
    try:
        return on_meta(config, HEADS[task_type])
    except Exception as error:  # a config may contain anything
        raise HfkitError(f"{path} is not a model that hfkit can train: {reason(error)}") from error


def adapter_on_meta(config, source: Source, task_type: TaskType) -> PeftModel:
    """Return a model without weights under the adapter that a stage trains; no caller changes it.

    It is built once while the files of the model and of the adapter are unchanged.

    Raises:
        HfkitError: no such adapter fits, or the adapter at `source` does not fit its base.
    """
    given = json.dumps([vars(source), lora_config(config, source, task_type).to_dict()], default=sorted)  # its sets
    return _adapter_on_meta(given, task_type, folder_state(source.path), folder_state(source.base))


@lru_cache(maxsize=16)
def _adapter_on_meta(given: str, task_type: TaskType, *_states: Hashable) -> PeftModel:
    settings, shape = json.loads(given)
    source = Source(**settings)
    model = model_on_meta(source.base, read_config(source.base, source.base_revision), task_type)
    try:
        adapted = get_on_meta(model, fit_to_model(LoraConfig(**shape), model))
    except (ValueError, TypeError, KeyError) as error:  # peft's errors for an unsupported shape
        remedy = "merge it with PEFT and use the result" if source.adapter else "change " + LORA_KEYS
        raise HfkitError(f"no adapter of this shape fits {source.base}: {reason(error)}: {remedy}") from error
    if source.adapter:
        with warnings.catch_warnings():  # torch warns that weights are not copied to the meta device
            warnings.simplefilter("ignore")
            load_adapter_weights(adapted, source)
    return adapted


def require_fitting(source: Source, task_type: TaskType = TaskType.CAUSAL_LM) -> None:
    """Raise HfkitError if an adapter does not fit its base; read only the adapter's weights.

    PEFT checks adapters that hfkit opens but cannot train.
    """
    if source.adapter is None or training_fault(source.adapter) is not None:
        return
    adapter_on_meta(NewAdapter, source, task_type)


def vocabulary_fault(path: str, tokenizer: PreTrainedTokenizerBase, size: int) -> str | None:
    """Return why a tokenizer does not fit a model with an embedding of `size` tokens, or None; a smaller one fits."""
    highest = max(tokenizer.get_vocab().values())
    if highest < size:
        return None
    remedy = "save the model with resized embeddings, or the tokenizer without added tokens"
    return f"the tokenizer {path} has ids up to {highest}, but the model's embedding has only {size} rows: {remedy}"


def require_vocabulary(source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise HfkitError if a model's tokenizer has ids beyond the embedding of its base."""
    size = read_config(source.base, source.base_revision).get_text_config().vocab_size
    if fault := vocabulary_fault(source.path, tokenizer, size):
        raise HfkitError(fault)
