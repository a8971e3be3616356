"""Validates the adapter of a config: its settings, the modules that it names, and the adapter that it starts from."""

import re

from peft import TaskType
from transformers import PreTrainedConfig, PreTrainedModel

from hfkit.config.fields import ALL_LINEAR, MODULE_NAMES
from hfkit.config.registry import spec_of_config
from hfkit.core.errors import HfkitError, Problem, nearest
from hfkit.core.regexes import regex_fault
from hfkit.models.adapter_support import opening_fault, training_fault, unmatched
from hfkit.models.fitting import model_on_meta
from hfkit.records.source import Source
from hfkit.stages.checks.architecture import MODEL_KEYS, quantization_key
from hfkit.stages.checks.rules import broken_rules
from hfkit.training.memory.shapes import linear_weights

ADAPTER_KEYS = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_target_modules": "target_modules"}
ADAPTER_KEYS |= {name: name for name in ("modules_to_save", "use_dora", "use_rslora")}
"""Keys that set an adapter's shape -> their names in PEFT's config."""
DROPOUT = "TRL's trainers of pairs turn dropout off: set 0, or disable_dropout: false"
NAMING_KEYS = ("lora_target_modules", "modules_to_save")


def adapter_problems(config) -> list[Problem]:
    """Return problems of LoRA and quantization settings that contradict each other."""
    bits = quantization_key(config)
    both = config.load_in_4bit and config.load_in_8bit
    given = [key for key in ADAPTER_KEYS if getattr(config, key) not in (None, False) and not config.use_peft]
    targets, whole = config.lora_target_modules, config.modules_to_save
    is_off = spec_of_config(config).form == "comparisons" and config.extra.get("disable_dropout", True)
    twice = isinstance(targets, list) and whole and {*targets} & {*whole}
    rules = [
        (
            bits and not config.use_peft,
            bits,
            "quantized weights cannot be trained in full: set use_peft: true",
            "use_peft",
        ),
        (both, "load_in_8bit", "the base is loaded in 4 bits or in 8: set one of the two", "load_in_4bit"),
        *((True, key, "has no effect without use_peft: true", "use_peft") for key in given),
        (
            config.lora_dropout == 1,
            "lora_dropout",
            "drops the adapter's whole input, so it would learn nothing: set it below 1",
        ),
        (is_off and config.lora_dropout, "lora_dropout", DROPOUT, "disable_dropout"),
        (targets == [], "lora_target_modules", "name one or more, or remove it for all linear layers"),
        (whole == [], "modules_to_save", "name one or more, or remove it"),
        (
            twice,
            "modules_to_save",
            "a module is either trained whole or adapted: name it under one key",
            NAMING_KEYS[0],
        ),
        (bits and config.dtype == "auto", "dtype", f"{bits} needs a dtype: bfloat16 on a GPU, else float32", bits),
    ]
    return broken_rules(config, rules)


def adapter_shape_problems(config) -> list[Problem]:
    """Return problems of LoRA settings that differ from those of the adapter that the stage starts from."""
    adapter = Source.of(config.model_name_or_path, config.model_revision).adapter
    if adapter is None:
        return []
    if not config.use_peft:
        fault = opening_fault(adapter, to_merge=True)
        return [Problem("model_name_or_path", config.model_name_or_path, fault, keys=MODEL_KEYS)] if fault else []
    fault = training_fault(adapter)
    problems = [Problem("model_name_or_path", config.model_name_or_path, fault, keys=MODEL_KEYS)] if fault else []
    for key, name_in_peft in ADAPTER_KEYS.items():
        value, inherited = getattr(config, key), adapter.get(name_in_peft)
        if value not in (None, False) and as_set(value) != as_set(inherited):
            remedy = f"the adapter that training starts from has {inherited}: remove it"
            problems.append(Problem(key, value, remedy, keys=("use_peft", *MODEL_KEYS)))
    return problems


def as_set(value: object) -> object:
    """Return a list as a set, to ignore its order, and any other value unchanged."""
    return set(value) if isinstance(value, list) else value


def module_problems(config, model_config: PreTrainedConfig) -> list[Problem]:
    """Return problems of modules that a config names and the model does not have; no weights are loaded."""
    if not config.use_peft or not any(getattr(config, key) not in (None, [], ALL_LINEAR) for key in NAMING_KEYS):
        return []
    try:
        model = model_on_meta(config.model_name_or_path, model_config, TaskType.CAUSAL_LM)
    except HfkitError:  # `checkpoint_problems` reports it
        return []
    return target_problems(config, model) + whole_problems(config, model)


def target_problems(config, model: PreTrainedModel) -> list[Problem]:
    """Return problems of `lora_target_modules`: an entry that matches nothing, or a faulty regular expression."""
    targets, key = config.lora_target_modules, "lora_target_modules"
    if targets in (None, [], ALL_LINEAR):
        return []
    if isinstance(targets, str) and (fault := regex_fault(targets)):  # the saved adapter could not be loaded
        return [Problem(key, targets, f"{fault}: it can take exponential time; name the modules")]
    try:
        missing = unmatched(model, targets)
    except re.error as error:
        return [Problem(key, targets, f"neither module names nor a regular expression: {error}")]
    known = {own_name(name) for name, module in model.named_modules() if is_matrix(module)} | {ALL_LINEAR}
    return [unmatched_problem(key, entry, model, known) for entry in missing]


def whole_problems(config, model: PreTrainedModel) -> list[Problem]:
    """Return problems of `modules_to_save`: an entry that matches nothing, or quantized weights."""
    modules, problems, key = dict(model.named_modules()), [], "modules_to_save"
    bits = quantization_key(config)
    quantized = linear_weights(model) if bits else set()
    known = {own_name(name) for name, module in modules.items() if name and any(True for _ in module.parameters())}
    for entry in config.modules_to_save or ():
        found = [module for name, module in modules.items() if name.endswith(entry)]  # as PEFT matches them
        if not found:
            problems.append(unmatched_problem(key, entry, model, known))
        elif quantized & {id(parameter) for module in found for parameter in module.parameters()}:
            remedy = f"is quantized by {bits} and cannot be trained whole: remove it, or remove {bits}"
            problems.append(Problem(key, entry, remedy, keys=(bits, *MODEL_KEYS)))
    return problems


def unmatched_problem(key: str, entry: str, model: PreTrainedModel, known: set[str]) -> Problem:
    """Return the problem of an entry that matches nothing, with the nearest of the `known` names."""
    close = nearest(entry.rpartition(".")[2], known) if MODULE_NAMES.fullmatch(entry) else None
    close = ALL_LINEAR if entry == "all" else close
    remedy = f"Did you mean {close!r}?" if close else f"Name some of {', '.join(sorted(known))}"
    return Problem(key, entry, f"matches no module of {type(model).__name__}. {remedy}", keys=("use_peft", *MODEL_KEYS))


def own_name(name: str) -> str:
    """Return the last part of a module's name that is not an index."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), name)


def is_matrix(module) -> bool:
    """Return whether LoRA can adapt a module: a linear layer or an embedding."""
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 2
