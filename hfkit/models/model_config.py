"""Reads the config of a model, or creates that of a new one, within the bounds of `records/bounds.py`."""

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from hfkit.core.errors import HfkitError, reason
from hfkit.models.multimodal import language_config
from hfkit.records.bounds import model_config_fault
from hfkit.records.source import find_file, read_json


def new_config(settings: dict) -> PreTrainedConfig:
    """Return the config of a new model from `model_config`: its `model_type` and settings of that architecture.

    Raises:
        HfkitError: a setting is out of bounds.
        Exception: any error of Transformers for an unknown architecture or contradictory settings.
    """
    if fault := model_config_fault(settings):
        raise HfkitError(f"model_config: {fault}")
    settings = dict(settings)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def context_tokens(config: PreTrainedConfig) -> int | None:
    """Return the context length of a model in tokens; None if it is unlimited."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def largest_setting(config: PreTrainedConfig, *keys: str) -> int:
    """Return the first of some settings that a model's config has, the largest of its layers; 0 if it has none."""
    config = config.get_text_config()
    layers = list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]
    for key in keys:
        values = [getattr(layer, key, None) for layer in layers]
        values = [one for value in values for one in (value if isinstance(value, list) else [value]) if one]
        if values:
            return max(values)
    return 0


def attention_widths(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Return the number of attention heads, and the widths of queries and of keys, of a model; 0 without attention."""
    heads = largest_setting(config, "num_attention_heads")
    width = largest_setting(config, "head_dim") or (config.get_text_config().hidden_size // heads if heads else 0)
    return heads, heads * width, (largest_setting(config, "num_key_value_heads") or heads) * width


def read_config(path: str, revision: str = "main") -> PreTrainedConfig:
    """Return the config of a full model; of a multimodal one, see `language_config`.

    Raises:
        HfkitError: the config cannot be read, is out of bounds, or pads with a token that the embedding lacks.
    """
    file = find_file(path, CONFIG_NAME, revision)  # unlike Transformers, retries an unreliable Hub
    if file is None:
        raise HfkitError(f"cannot load {path}: there is no {CONFIG_NAME}")
    if fault := model_config_fault(read_json(str(file.parent), CONFIG_NAME) or {}):
        raise HfkitError(f"the {CONFIG_NAME} of {path} is not valid for a model: {fault}")
    try:
        config = AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
    except Exception as error:  # Transformers raises errors of any kind for a broken config
        raise HfkitError(f"the config.json of {path} cannot be read: {reason(error)}") from error
    config = language_config(config)
    config.name_or_path = path
    text_config = config.get_text_config()
    pad, size = getattr(text_config, "pad_token_id", None), getattr(text_config, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and not -1 <= pad < size:
        raise HfkitError(
            f"pad_token_id in the config.json of {path} is {pad}, but its embedding has only {size} rows: correct "
            "pad_token_id or remove it"
        )
    return config
