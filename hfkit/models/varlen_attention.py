"""Computes attention within the documents of a packed row with PyTorch's flash attention kernel for variable lengths.

Documents are found by the positions, which restart at each of them. For other rows (padded batches, sampling with a
cache) `scaled_dot_product_attention` is used, as without packing.
"""

import inspect
import weakref

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from hfkit.core.errors import HfkitError
from hfkit.models.model_config import attention_widths

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # PyTorch before 2.10
    varlen_attn = None

VARLEN = "varlen"
PARAMETERS = inspect.signature(varlen_attn).parameters if varlen_attn else {}
GROUPED = {"enable_gqa": True} if "enable_gqa" in PARAMETERS else {}  # PyTorch 2.11 groups heads automatically
LARGEST_HEAD, AMPERE = 256, (8, 0)
UNSUPPORTED = ("attn_logit_softcapping", "attention_chunk_size")
"""Keys of configs for features that the kernel does not support."""


def supports_varlen(config: PreTrainedConfig) -> bool:
    """Return whether the kernel supports a model's config: on a GPU, in 16 bits, without soft caps."""
    text = config.get_text_config()
    heads, query, _ = attention_widths(config)
    if not heads or query // heads > LARGEST_HEAD or any(getattr(text, key, None) for key in UNSUPPORTED):
        return False
    return has_kernel() and torch.cuda.is_available() and torch.cuda.get_device_capability() >= AMPERE


def has_kernel() -> bool:
    """Return whether this PyTorch has the kernel, with windows."""
    return "window_size" in PARAMETERS


class Boundaries:
    """The documents of the current row, cached: each layer needs them, and reading them waits for the GPU."""

    def __init__(self):
        self.positions, self.found = lambda: None, None

    def of(self, positions: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Return where the N documents of positions (1, tokens) begin, and the end, (N + 1,) int32; and the longest."""
        if self.positions() is not positions:
            (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(positions)
            self.positions, self.found = weakref.ref(positions), (starts, int(longest))
        return self.found


boundaries = Boundaries()


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_ids: torch.Tensor | None = None,
    **options,
) -> tuple[torch.Tensor, None]:
    """Return the attention of queries (batch, heads, tokens, size) as (batch, tokens, heads, size), without weights.

    Raises:
        HfkitError: the layer needs a feature that the kernel does not support.
    """
    is_row = attention_mask is None and query.shape[0] == 1 and query.shape[2] == key.shape[2]
    if not is_row or position_ids is None:
        options |= {"position_ids": position_ids, "sliding_window": sliding_window}
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    unsupported = [name for name in ("softcap", "s_aux") if options.get(name) is not None]
    unsupported += [key for key in UNSUPPORTED if getattr(module.config, key, None)]
    unsupported += ["is_causal=False"] * (options.get("is_causal") is False)
    if unsupported or dropout or value.shape[-1] != query.shape[-1]:
        wanted = ", ".join([*unsupported, *["dropout"] * bool(dropout)]) or "values of another size than the keys"
        raise HfkitError(f"attn_implementation={VARLEN} does not support {wanted}: set attn_implementation: sdpa")
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    starts, longest = boundaries.of(position_ids)
    rows = [one[0].transpose(0, 1).to(dtype) for one in (query, key, value)]
    window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)
    attended = varlen_attn(*rows, starts, starts, longest, longest, scale=scaling, window_size=window, **GROUPED)
    return attended[None], None


def varlen_mask(batch_size: int, q_length: int, kv_length: int, *offsets, attention_mask=None, **options):
    """Return no mask for one row without padding, whose positions separate documents; else the mask of SDPA."""
    if attention_mask is None and batch_size == 1 and q_length == kv_length:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, *offsets, attention_mask=attention_mask, **options)


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, varlen_mask)
