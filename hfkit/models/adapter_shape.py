"""Determines the shape of the adapter that a stage trains: its LoRA configuration, and the modules that it matches."""

import copy
import re
from dataclasses import replace

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from hfkit.config.fields import ALL_LINEAR, DEFAULT_LORA_RANK
from hfkit.models.classifiers import provide_classifier, without_weights
from hfkit.models.direct_weights import direct_weights, is_target
from hfkit.models.multimodal import parts_without_text
from hfkit.records.source import Source

HEADS = {TaskType.CAUSAL_LM: AutoModelForCausalLM, TaskType.SEQ_CLS: AutoModelForSequenceClassification}
CLASSIFIER_HEADS = ("classifier", "score")  # the heads that peft trains in full in every classifier
SHAPE = ("target_modules", "exclude_modules", "target_parameters", "rank_pattern", "alpha_pattern", "use_dora")
SHAPE += ("lora_bias", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "trainable_token_indices")
SHAPE += ("ensure_weight_tying",)
"""Settings that a trainable copy of an adapter keeps."""
WITHOUT_TEXT = "parts-without-text"
"""Like PEFT's "all-linear", a value that depends on the model: `fit_to_model` replaces it by `parts_without_text`."""
LARGEST_BUFFERS = 4 << 30
"""Maximum bytes of the buffers that a model computes from its config alone."""


def lora_config(config, source: Source, task_type: TaskType) -> LoraConfig:
    """Return the LoRA configuration of a stage: that of the adapter at `source`, if any, else the config's."""
    start = source.adapter or {}
    rank = start.get("r") or config.lora_r or DEFAULT_LORA_RANK
    # peft adds a classifier's head only for the task type of a classifier
    whole = ["score"] if task_type == TaskType.SEQ_CLS else []
    saved = start.get("modules_to_save") if start else config.modules_to_save
    whole += [name for name in saved or [] if name not in CLASSIFIER_HEADS]
    shape = {name: start[name] for name in SHAPE if start.get(name) is not None}
    if not start:
        shape = {"target_modules": config.lora_target_modules or ALL_LINEAR, "exclude_modules": WITHOUT_TEXT}
        shape["use_dora"] = config.use_dora
    return LoraConfig(
        task_type=task_type,
        r=rank,
        lora_alpha=start.get("lora_alpha") or config.lora_alpha or 2 * rank,
        lora_dropout=config.lora_dropout,
        use_rslora=start.get("use_rslora", config.use_rslora),
        modules_to_save=whole or None,
        **{"target_modules": [], **shape},
    )


def fit_to_model(shape: LoraConfig, model: PreTrainedModel) -> LoraConfig:
    """Return the configuration adjusted to a model.

    An adapter of a language model may have trained its head in full, which a classifier lacks. LoRA on the experts of
    a mixture has no dropout. `direct_weights` get none. A new adapter of a multimodal model adapts its text model only.

    Raises:
        ValueError: the adapter matches no module, one that PEFT cannot adapt, or one of `direct_weights`.
    """
    shape = copy.deepcopy(shape)
    exclude_parts_without_text(shape, model)
    exclude_direct_weights(shape, model)
    if shape.modules_to_save:
        modules = [name for name, _ in model.named_modules()]
        shape.modules_to_save = [one for one in shape.modules_to_save if any(name.endswith(one) for name in modules)]
    may_match_experts = bool(shape.target_parameters) or any(p.ndim == 3 for p in model.parameters())
    if shape.lora_dropout and may_match_experts:
        bare = on_meta(model.config, HEADS[shape.task_type])
        made = get_on_meta(bare, replace(shape, lora_dropout=0.0))
        if made.peft_config["default"].target_parameters:
            shape.lora_dropout = 0.0
    return shape


def exclude_parts_without_text(shape: LoraConfig, model: PreTrainedModel) -> None:
    """Replace `WITHOUT_TEXT` by the names of a model's linear layers that read images or sound; None without any."""
    if shape.exclude_modules == WITHOUT_TEXT:
        parts = "|".join(map(re.escape, parts_without_text(model)))
        shape.exclude_modules = rf"({parts})(\..*)?" if parts else None


def exclude_direct_weights(shape: LoraConfig, model: PreTrainedModel) -> None:
    """Exclude a model's `direct_weights` from "all linear layers".

    Raises:
        ValueError: other `target_modules` match one of them.
    """
    direct, targets = direct_weights(model.config), shape.target_modules or []
    matched = [name for name, _ in model.named_modules() if is_target(name, direct)]
    names = sorted({name.rpartition(".")[2] for name in matched})
    excluded = shape.exclude_modules or []
    if names and targets == ALL_LINEAR:
        layers = rf"(.*\.)?({'|'.join(names)})"
        shape.exclude_modules = f"{excluded}|{layers}" if isinstance(excluded, str) else names
        return
    left = [name for name in matched if not is_target(name, excluded)]
    if found := next((name for name in left if is_target(name, targets)), None):
        layer = found.rpartition(".")[2]
        raise ValueError(f"LoRA on {layer} has no effect in {model.config.model_type}, or a wrong one")


def on_meta(config: PreTrainedConfig, head: type, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return a model without weights; a classifier has one label.

    Args:
        head: the auto class of the model.

    Raises:
        ValueError: its buffers, such as tables of positions, would take more than `LARGEST_BUFFERS`.
    """
    if head is AutoModelForSequenceClassification:
        config = copy.deepcopy(config)
        config.num_labels = 1
        provide_classifier(config)
    model = without_weights(head, config, dtype)
    if (size := sum(buffer.nbytes for buffer in model.buffers())) > LARGEST_BUFFERS:
        raise ValueError(f"its tables of positions would take {size >> 30} GiB: correct the sizes in its config")
    return model


def get_on_meta(model: PreTrainedModel, shape: LoraConfig) -> PeftModel:
    """Return a model without weights under an adapter, to find the modules that the adapter matches.

    Raises:
        ValueError: the adapter matches no module, or one that PEFT cannot adapt.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return get_peft_model(model, copy.deepcopy(shape))
