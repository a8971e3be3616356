"""Validates the kernels that a config sets: their packages are installed, and a GPU is available."""

from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available, is_liger_kernel_available

from hfkit.core.device import process_state
from hfkit.core.errors import Problem
from hfkit.models import varlen_attention

LIGER, OFFLOADS = "use_liger_kernel", "activation_offloading"
FLASH = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
"""Whether each flash attention can be loaded: from its own package, or by the package `kernels`."""


def kernel_problems(config) -> list[Problem]:
    """Return problems of kernels that are not installed, that need a GPU, or that contradict another setting."""
    key, attention, extra = "attn_implementation", config.attn_implementation, config.extra
    asked = [(LIGER, True, "liger-kernel", "hfkit[liger]", is_liger_kernel_available)] if extra.get(LIGER) else []
    if attention in FLASH:
        is_available = FLASH[attention]
        asked.append(
            (key, attention, "flash attention", "hfkit[kernels]", lambda: is_available(kernels_fallback_ok=True))
        )
    elif attention == varlen_attention.VARLEN:
        asked.append((key, attention, "this attention", "torch>=2.11", varlen_attention.has_kernel))
    if extra.get(OFFLOADS):
        asked.append((OFFLOADS, True, "offloading of activations", "", lambda: True))
    problems = []
    has_gpu = not asked or process_state(extra).device.type == "cuda"
    for key, value, name, package, is_available in asked:
        if not has_gpu:
            problems.append(Problem(key, value, f"{name} runs on a GPU only: remove it"))
        elif not is_available():
            problems.append(Problem(key, value, f"{name} is not installed: pip install '{package}', or remove it"))
    if extra.get(LIGER) and extra.get("loss_type") == "chunked_nll":
        problems.append(Problem("loss_type", "chunked_nll", "liger-kernel has its own loss: remove one", keys=(LIGER,)))
    return problems
