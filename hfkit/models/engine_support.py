"""Checks which engines can sample from a model, by its config, before any weights are loaded."""

import os
import shutil

from transformers import AutoModelForCausalLM, PreTrainedConfig

from hfkit.core.compat import supports_static_cache
from hfkit.core.launch import world_size
from hfkit.models.adapter_shape import on_meta

PAGED_ATTENTION = ("full_attention", "sliding_attention")
"""The layer types that Transformers' continuous batching supports in all versions that hfkit allows."""


def engine_fault(
    engine: str, config: PreTrainedConfig, bits: int | None = None, merges: bool = False, attention: str | None = None
) -> str | None:
    """Return why an engine cannot sample from a model, and an engine that can; None if it can.

    Args:
        bits: bits of a base that bitsandbytes quantizes.
        merges: whether merged copies replace a 4-bit base.
        attention: `attn_implementation`, if it is set.
    """
    if engine == "static":
        fault = static_fault(config, bits, merges)
        return fault and f"{fault}: set rollout_engine: generate"
    if engine == "continuous":
        if world_size() > 1:
            return "continuous batching supports only one process: set rollout_engine: generate, or static"
        fault = continuous_fault(config, attention)
        other = " or static" * (static_fault(config, bits, merges) is None)
        return fault and f"{fault}: set rollout_engine: generate{other}"
    return None  # for vLLM, see `stages/checks/vllm.py`


def static_fault(config: PreTrainedConfig, bits: int | None, merges: bool) -> str | None:
    """Return why a model cannot be compiled with a static cache, or None."""
    if not supports_static_cache(type(on_meta(config, AutoModelForCausalLM))):
        return f"Transformers has no static cache for {config.model_type}"
    if bits == 8 or (bits == 4 and not merges):
        return f"Transformers cannot compile a model in {bits} bits" + " without merge_in_rollouts" * (bits == 4)
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "torch.compile needs a C++ compiler, and g++ is not installed"
    return None


def continuous_fault(config: PreTrainedConfig, attention: str | None) -> str | None:
    """Return why continuous batching cannot sample from a model, or None."""
    model_class, config = type(on_meta(config, AutoModelForCausalLM)), config.get_text_config()
    others = {*(getattr(config, "layer_types", None) or ())} - {*PAGED_ATTENTION}
    if not model_class.is_backend_compatible() or others:
        layers = f" ({', '.join(sorted(others))} layers)" if others else ""
        return f"Transformers has no continuous batching for {config.model_type}{layers}"
    if getattr(config, "is_heterogeneous", False):
        return f"Transformers has no continuous batching for {config.model_type}, whose layers have several shapes"
    if getattr(config, "attn_logit_softcapping", None):
        return f"continuous batching leaves out the soft cap of {config.model_type}'s attention"
    if attention not in (None, "sdpa", "eager"):
        return f"continuous batching needs sdpa or eager attention, but attn_implementation is {attention}"
    return None
