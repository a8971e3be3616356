"""Leaves the inputs of adapters in the 16 bits that autocast computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting


@contextmanager
def keep_input_dtype(model: torch.nn.Module, autocast: bool) -> Iterator[None]:
    """Skip the cast of an adapter's inputs to float32, which autocast reverts: two copies in each linear layer.

    Results and gradients are equal bit for bit. DoRA keeps the cast: it computes norms in the dtype of its input.

    Args:
        autocast: whether forward passes in the block compute in 16 bits by autocast.
    """
    is_plain = isinstance(model, PeftModel) and not any(
        getattr(config, "use_dora", False) for config in model.peft_config.values()
    )
    with disable_input_dtype_casting(model, active=autocast and is_plain):
        yield
