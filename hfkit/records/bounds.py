"""Checks that the values in a model's or adapter's config are within bounds, before anything is created from them.

Configs of models are untrusted. A number in one decides how much memory and time even a model without weights takes,
and some settings name code or other files to load.
"""

import re
from collections.abc import Iterator
from typing import Any

from hfkit.core.regexes import regex_fault

LAYER_COUNTS = re.compile(r"n_layers?|num_layers|num_(\w+_)?layers|(en|de)coder_layers|depth|num_(\w+_)?blocks")
EXPERTS = re.compile(r"(\w+_)?experts(_\w+)?")
LARGEST_SIZES = {
    LAYER_COUNTS: 1024,
    re.compile(r"(\w+_)?n?_?heads?|n_head_kv"): 1 << 16,
    EXPERTS: 1 << 14,
    re.compile(r"(\w+_)?(position_embeddings|positions|n_ctx|seq_len|sequence_length|seq_length)"): 1 << 27,
    re.compile(r"(\w+_)?(size|dim|n_embd|d_model|n_inner|vocab_size(_\w+)?)"): 1 << 24,
}
"""The maximum of a model's settings by name: about ten times that of the largest existing model."""
LARGEST_LAYERS_OF_EXPERTS = 1 << 16
"""The maximum of layers times experts: Kimi K2 has 61 * 384."""
SINGLE_SIZES: tuple[str, ...] = ("vocab_size", "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer")
SINGLE_SIZES += ("n_layers", "num_layers", "num_attention_heads", "n_head", "n_heads", "num_heads")
SINGLE_SIZES += ("max_position_embeddings", "n_positions")
"""The settings that are a positive integer in every architecture that has them."""
DTYPE = re.compile(r"(torch\.)?(auto|(b?float|u?int|complex)\d+(_\w+)?|float|double|half|bfloat16)")
FOREIGN_CODE = ("attn_implementation", "experts_implementation")
"""With or without a leading `_`: a value with a `/` is a Hub repository, whose code Transformers would run."""
QUANTIZATIONS: tuple[str, ...] = ("awq", "bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "gptq")
QUANTIZATIONS += ("compressed-tensors", "fp8", "mxfp4", "torchao", "hqq", "fbgemm_fp8", "bitnet", "aqlm", "eetq")
QUANTIZATIONS += ("auto-round", "quark", "vptq", "quanto", "higgs", "spqr", "fp_quant", "finegrained_fp8", "nvfp4")
QUANTIZATIONS += ("mxfp8", "sinq")
OWN_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

LARGEST_RANK = 1 << 14
LARGEST_OF_ADAPTER = 1 << 32
LONGEST_BASE = 4096
RANKS = ("r", "init_r", "target_r", "num_virtual_tokens", "adapter_len")
RANK_PATTERNS = ("rank_pattern", "alpha_pattern")
PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "target_parameters", "modules_to_save")
LOADS_MORE = ("megatron_config", "prompt_tuning_init_state_dict_path", "shadow_model", "adapters")
"""Settings with which an adapter makes PEFT import modules or open other files."""


def model_config_fault(settings: dict) -> str | None:
    """Return which setting of a model's config.json is out of bounds, and its bounds; else None.

    Transformers checks the settings of each architecture and whether its sizes match.
    """
    text_config = settings.get("text_config")
    for part in (settings, text_config if isinstance(text_config, dict) else {}):
        for name in SINGLE_SIZES:
            if name in part and (type(part[name]) is not int or part[name] < 1) and part[name] is not None:
                return f"{name} is {shown(part[name])}, not a positive integer"
    counts = {"layer": 1, "experts": 1}
    for name, value in walk(settings):
        if fault := code_fault(name, value):
            return fault
        limit = next((limit for pattern, limit in LARGEST_SIZES.items() if pattern.fullmatch(name)), None)
        if limit is None:
            continue
        highest = max((abs(one) for one in whole_numbers(value)), default=0)
        if highest > limit:
            return f"{name} is {shown(value)}, more than the maximum of {limit}"
        for count, pattern in zip(counts, (LAYER_COUNTS, EXPERTS), strict=True):
            counts[count] = max(counts[count], highest if pattern.fullmatch(name) else 1)
    if counts["layer"] * counts["experts"] > LARGEST_LAYERS_OF_EXPERTS:
        return f"{counts['layer']} layers * {counts['experts']} experts is more than {LARGEST_LAYERS_OF_EXPERTS}"
    return None


def code_fault(name: str, value: Any) -> str | None:
    """Return why a setting of a model's config could load code or other files, or None."""
    if name.lstrip("_").removesuffix("_internal") in FOREIGN_CODE:
        named = [one for one in (value.values() if isinstance(value, dict) else [value]) if one is not None]
        if not all(isinstance(one, str) and re.fullmatch(r"[\w|]+", one) for one in named):
            return f"{name} is {shown(value)}: hfkit runs no code from the Hub; remove it"
    if name in ("dtype", "torch_dtype") and not isinstance(value, dict):
        if value is not None and not (isinstance(value, str) and DTYPE.fullmatch(value)):
            return f"{name} is {shown(value)}, not a dtype of PyTorch"
    if name == "quantization_config" and isinstance(value, dict):
        method = value.get("quant_method")
        if method is not None and method not in QUANTIZATIONS:
            return f"quant_method in quantization_config is {shown(method)}, not one of {', '.join(QUANTIZATIONS)}"
    if name == "transformers_weights" and value not in (None, *OWN_WEIGHTS):
        return f"{name} is {shown(value)}: weights are loaded from {OWN_WEIGHTS[0]}; rename the file"
    return None


def adapter_fault(settings: dict) -> str | None:
    """Return which setting of an adapter_config.json is out of bounds, and why; else None."""
    for name in LOADS_MORE:
        if settings.get(name):
            return f"{name} is {shown(settings[name])}, which would make PEFT load more than this adapter: remove it"
    base = settings.get("base_model_name_or_path")
    if isinstance(base, str) and (len(base) > LONGEST_BASE or base.startswith("-") or not base.isprintable()):
        return f"base_model_name_or_path is {shown(base)}, neither a folder nor a Hub id"
    if fault := pattern_fault(settings) or rank_fault(settings):
        return fault
    for name, value in walk(settings):
        if "key" not in name and any(abs(one) > LARGEST_OF_ADAPTER for one in whole_numbers(value)):
            return f"{name} is {shown(value)}, more than {LARGEST_OF_ADAPTER}"
    return None


def pattern_fault(settings: dict) -> str | None:
    """Return which setting of an adapter names modules wrongly or by an unsafe regular expression, or None."""
    patterns = []
    for name in PATTERNS:
        value = settings.get(name)
        names = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(one, str) for one in names):
            return f"{name} is {shown(value)}, not a list of names"
        if isinstance(value, str) or name == "layers_pattern":  # other lists have names, not regular expressions
            patterns += names
    for name in RANK_PATTERNS:
        ranks = settings.get(name) or {}
        if not isinstance(ranks, dict) or not all(isinstance(one, (int, float)) for one in ranks.values()):
            return f"{name} is {shown(ranks)}, not a mapping of names to numbers"
        patterns += ranks
    faults = ((pattern, regex_fault(pattern)) for pattern in patterns)
    return next((f"the regular expression {shown(pattern)} {fault}" for pattern, fault in faults if fault), None)


def rank_fault(settings: dict) -> str | None:
    """Return which rank of an adapter is out of bounds, or None."""
    ranks = [(name, settings[name]) for name in RANKS if name in settings]
    ranks += [("rank_pattern", one) for one in (settings.get("rank_pattern") or {}).values()]
    for name, rank in ranks:
        if isinstance(rank, int) and not 0 < rank <= LARGEST_RANK:
            return f"{name} is {shown(rank)}, not from 1 to {LARGEST_RANK}"
    return None


def walk(settings: dict) -> Iterator[tuple[str, Any]]:
    """Yield each setting, including those of nested mappings."""
    waiting = [settings]
    for part in waiting:
        for name, value in part.items():
            yield name, value
            waiting += [value] if isinstance(value, dict) else []


def whole_numbers(value: Any) -> list[int]:
    """Return a value if it is an integer, or the integers in a list and its nested lists."""
    if isinstance(value, list):
        return [number for one in value for number in whole_numbers(one)]
    return [value] if type(value) is int else []


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    if isinstance(value, int) and abs(value) >= 1 << 64:  # Python refuses to print very long ones
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:50]}...{text[-20:]}"
