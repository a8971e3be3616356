"""Provides sequence classifiers for architectures without one in Transformers: a generic head on their backbone."""

import copy
from dataclasses import is_dataclass
from typing import get_args, get_type_hints

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification

from hfkit.core.compat_sharding import whole_models
from hfkit.core.unwrap import without_adapter
from hfkit.models.generation import CACHE_NAME


def provide_classifier(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Register a classifier for the architecture of a config with `AutoModelForSequenceClassification`.

    Returns:
        its classifier: Transformers' own, else a generic one; None if none can be created or registered.
    """
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:  # iterating over it would import all architectures
        return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    prefix = backbone_name(config)
    if prefix is None:
        return None
    pretrained = architecture_class(MODEL_MAPPING[type(config)])
    name = f"{pretrained.__name__.removesuffix('PreTrainedModel')}ForSequenceClassification"
    content = {"base_model_prefix": prefix, "config_class": type(config), "is_generic": True}
    content["__module__"] = pretrained.__module__  # Transformers looks there for the features of an architecture
    classifier = type(name, (GenericForSequenceClassification, pretrained), content)
    # registering a class for a config of Transformers requires exist_ok; before 5.19, it registers none even so
    AutoModelForSequenceClassification.register(type(config), classifier, exist_ok=True)
    return classifier if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING else None


def has_classifier(config: PreTrainedConfig, to_score: bool = True) -> bool:
    """Return whether there is a classifier with a `score` head for the architecture of a config, specific or generic.

    Args:
        to_score: whether its forward pass must compute scores, as a reward model's does in training; the generic one
            reads the cache and attentions of its backbone, which most recurrent backbones do not return.
    """
    classifier = provide_classifier(config)
    if classifier is None:
        return False
    if not issubclass(classifier, GenericForSequenceClassification):  # CTRL and ModernBERT have other heads
        return hasattr(without_weights(AutoModelForSequenceClassification, config), "score")
    if not is_generic(classifier) or not to_score:
        return True
    result = get_type_hints(MODEL_MAPPING[type(config)].forward).get("return")
    returned = [one for one in (result, *get_args(result)) if is_dataclass(one)]
    return any({CACHE_NAME, "attentions"} <= one.__dataclass_fields__.keys() for one in returned)


def is_generic(classifier: type) -> bool:
    """Return whether a class is a generic classifier of `provide_classifier`, unknown to plain Transformers."""
    return getattr(classifier, "is_generic", False)


def describe_generic(model: torch.nn.Module) -> dict:
    """Return the record's entry about a generic classifier, which plain Transformers cannot load; {} for any other.

    Returns:
        {"generic_classifier": its name, base_model_prefix, and the modules and names of its base and its config}.
    """
    classifier = type(without_adapter(model))
    if not is_generic(classifier):
        return {}
    classes = {"base": classifier.__bases__[1], "config": classifier.config_class}
    described = {key: [one.__module__, one.__name__] for key, one in classes.items()}
    facts = {"name": classifier.__name__, "base_model_prefix": classifier.base_model_prefix, **described}
    return {"generic_classifier": facts}


def architecture_class(backbone: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the class from which all models of an architecture inherit."""
    classes = [one for one in backbone.__mro__ if issubclass(one, PreTrainedModel) and one is not PreTrainedModel]
    return classes[-1]


def backbone_name(config: PreTrainedConfig) -> str | None:
    """Return the name of the backbone in an architecture's language model; None if there is no separate backbone.

    The weights in the language model's checkpoints have this prefix.
    """
    backbone = MODEL_MAPPING.get(type(config), None)
    if backbone is None or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    children = without_weights(AutoModelForCausalLM, config).named_children()
    return next((name for name, child in children if type(child) is backbone), None)


def without_weights(head: type, config: PreTrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return the model of a config, by its auto class, on the meta device."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), whole_models():
        # the model sets more attributes on its config
        return head.from_config(copy.deepcopy(config), dtype=dtype, trust_remote_code=False)
