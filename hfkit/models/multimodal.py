"""Models that also read images or sound: hfkit trains them on text, and leaves the rest of the model unchanged."""

import inspect
from collections.abc import Callable

import torch
from peft import PeftModel
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.utils import CONFIG_NAME

from hfkit.core.unwrap import without_adapter
from hfkit.records.source import folder_of, read_json


def language_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of the causal language model in a checkpoint; prepare `AutoModelForCausalLM` to load it.

    Transformers loads multimodal models in three ways. It loads the text model alone (Qwen 3.5): its config is the
    result, so that classifiers leave out the rest too. It loads the whole model (Gemma 3). Or it loads the whole model,
    but only as one of images and text (Mistral 3), which is then registered as a causal language model too. Releases
    before 5.19 ignore that.
    """
    kind, text = type(config), config.get_text_config()
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind]
        if all(one.default is not one.empty for one in inputs_of(model_class)):
            AutoModelForCausalLM.register(kind, model_class, exist_ok=True)
    if text is config or kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config
    if MODEL_FOR_CAUSAL_LM_MAPPING[kind] is not MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None):
        return config
    text.dtype = text.dtype or config.dtype
    if hasattr(config, "quantization_config"):
        text.quantization_config = config.quantization_config
    return text


def inputs_of(model_class: type[PreTrainedModel]) -> list[inspect.Parameter]:
    """Return the parameters of a class's forward pass; those without a default are required."""
    named = [*inspect.signature(model_class.forward).parameters.values()][1:]
    return [one for one in named if one.kind is one.POSITIONAL_OR_KEYWORD]


def parts_without_text(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules of a multimodal model that read no text: those next to its decoder."""
    parent, decoder = decoder_of_text(model)
    if decoder is None:
        return []
    children, kept = model.get_submodule(parent).named_children(), {decoder, model.get_output_embeddings()}
    return [f"{parent}.{name}".lstrip(".") for name, child in children if kept.isdisjoint(child.modules())]


def decoder_of_text(model: PreTrainedModel) -> tuple[str, torch.nn.Module | None]:
    """Return the name of the module that contains the decoder of a multimodal model, and the decoder; else "", None."""
    decoder = model.get_decoder() if model.config.get_text_config() is not model.config else model
    if decoder is model:
        return "", None
    name = next(name for name, module in model.named_modules() if module is decoder)
    return name.rpartition(".")[0], decoder


def freeze_parts_without_text(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze the weights of a multimodal model that text does not reach, and return the model.

    They would get no gradients, with which DistributedDataParallel fails.
    """
    parent, decoder = decoder_of_text(model)
    if decoder is not None:
        for weight in model.get_submodule(parent).parameters(recurse=False):  # such as image_newline
            weight.requires_grad = False
    for name in parts_without_text(model):
        model.get_submodule(name).requires_grad_(False)
    return model


def describe_multimodal(model: PreTrainedModel | PeftModel) -> dict:
    """Return the record's entries on a multimodal model, for its card; {} for any other.

    Returns:
        {"multimodal": "whole"}, or "text" for an adapter on its text model. If `AutoModelForCausalLM` does not know the
        class of the whole model: also {"registered": the modules and names of its config and class}.
    """
    base = without_adapter(model)
    config = base.config
    if config.get_text_config() is not config:
        reads_images = type(base) is MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)  # else a classifier
        classes = [[one.__module__, one.__name__] for one in (type(config), type(base))]
        is_unknown = reads_images and config.model_type not in CAUSAL
        return {"multimodal": "whole"} | ({"registered": classes} if is_unknown else {})
    if base is model:
        return {}
    adapter = model.peft_config["default"]
    is_text = is_text_model_of(adapter.base_model_name_or_path, config, adapter.revision or "main")
    return {"multimodal": "text"} if is_text else {}


def is_text_model_of(path: str, config: PreTrainedConfig, revision: str = "main") -> bool:
    """Return whether a model's config is that of the text model in the multimodal checkpoint at a path."""
    stored = read_json(path, CONFIG_NAME, revision) or {}
    return stored.get("model_type", config.model_type) != config.model_type


def stored_names(model: PreTrainedModel, path: str, revision: str = "main") -> Callable[[str], str]:
    """Return a function that turns a weight's name in a model into that in the files of the base at a path.

    They differ for a text model that was loaded without the rest of its multimodal checkpoint.
    """
    if not is_text_model_of(path, model.config, revision):
        return lambda name: name
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder_of(path, revision)), trust_remote_code=False)
        whole = AutoModelForImageTextToText.from_config(config)
    whole_head, own_head = whole.get_output_embeddings(), model.get_output_embeddings()
    body, own_body = type(model.base_model), model.base_model
    pairs = [
        (name_of(model, lambda module: module is own_head), name_of(whole, lambda module: module is whole_head)),
        (name_of(model, lambda module: module is own_body), name_of(whole, lambda module: type(module) is body)),
    ]

    def stored(name: str) -> str:
        for own, its in pairs:
            if not own or name.startswith(f"{own}."):
                return f"{its}.{name.removeprefix(f'{own}.')}"
        return name

    return stored


def name_of(model: PreTrainedModel, is_wanted: Callable[[torch.nn.Module], bool]) -> str:
    """Return the name of the first wanted module of a model; "" for the model itself."""
    return next(name for name, module in model.named_modules() if is_wanted(module))
