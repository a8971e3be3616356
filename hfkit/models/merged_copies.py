"""Merges an adapter into copies of a model's matrices, to sample with fewer operations per token.

The base's matrices, which other models may share, do not change.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.utils import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from hfkit.core.compat import is_plain_lora, without_quantizer
from hfkit.models.quantization import dequantized, quantized_layers


def can_merge(model: PreTrainedModel | PeftModel, bf16: bool = False) -> bool:
    """Return whether the adapter can be merged into copies: only plain LoRA layers, on a base in float32 or 4 bits.

    DoRA, biases, modules trained in full and experts of a mixture are not W + B A. LLM.int8 also rounds the inputs of
    its layers, so a copy would not compute the same.

    Args:
        bf16: whether the model computes under bf16 autocast, which also allows a base in bfloat16.
    """
    dtypes = (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)
    quantized = quantized_layers(model)
    modules = [*model.modules()]
    layers = [module for module in modules if isinstance(module, LoraLayer)]
    on_quantized = [layer for layer in layers if layer.get_base_layer() in quantized]
    plain = [layer for layer in layers if layer.get_base_layer() not in quantized]
    return (
        bool(layers)
        and not any(isinstance(module, AuxiliaryTrainingWrapper) for module in modules)
        and all(map(is_plain_lora, layers))
        and all(type(layer) in (Linear, Embedding) for layer in plain)
        and all(layer.get_base_layer().weight.dtype in dtypes for layer in plain)
        and all(bits == 4 for bits in quantized.values())
        and (not on_quantized or copy_dtype(model, bf16) in (torch.float32, torch.bfloat16))
    )


def copy_dtype(model: PreTrainedModel | PeftModel, bf16: bool) -> torch.dtype:
    """Return the dtype of the copies of quantized matrices: that of the activations."""
    return torch.bfloat16 if bf16 else model.dtype


class Target(NamedTuple):
    """The target of a copy: the layer that computes with the matrix, and the LoRA layer around it, if any."""

    parent: torch.nn.Module
    name: str
    layer: torch.nn.Module
    adapter: LoraLayer | None


class MergedCopies:
    """Copies of the adapted matrices with the adapter merged, and of all other quantized matrices.

    Args:
        model: under an adapter that `can_merge`.
        bf16: whether copies of linear layers are in bfloat16, to which autocast would otherwise cast them for every
            token (see `round_randomly`). Embeddings, which autocast does not cast, keep the base's dtype.
    """

    def __init__(self, model: PeftModel, bf16: bool = False):
        self.model, self.bf16 = model, bf16
        self.quantized = quantized_layers(model)
        self.copies: dict[torch.nn.Module, torch.nn.Parameter] = {}

    def targets(self) -> Iterator[Target]:
        """Yield each matrix to copy."""
        for path, layer in list(self.model.named_modules()):
            above, _, name = path.rpartition(".")
            parent = self.model.get_submodule(above)
            adapter = parent if isinstance(parent, LoraLayer) and name == "base_layer" else None
            if adapter is not None or layer in self.quantized:
                yield Target(parent, name, layer, adapter)

    def dtype_of(self, target: Target) -> torch.dtype:
        """Return the dtype of a copy."""
        if target.layer in self.quantized:
            return copy_dtype(self.model, self.bf16)
        return torch.bfloat16 if self.bf16 and isinstance(target.adapter, Linear) else target.layer.weight.dtype

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most copies."""
        return next(self.dtype_of(target) for target in self.targets())

    @property
    def bytes(self) -> int:
        """Bytes of all copies, plus the float32 tensors of the largest one while it is created."""
        sizes = [(math.prod(matrix_shape(target.layer)), self.dtype_of(target)) for target in self.targets()]
        temporary = max(count * 4 * (1 if dtype == torch.float32 else 2) for count, dtype in sizes)
        return sum(count * dtype.itemsize for count, dtype in sizes) + temporary

    @torch.no_grad()
    def merged(self, target: Target) -> torch.Tensor:
        """Return a copy of the current matrix; rounding to bfloat16 draws from torch's global generator."""
        weight = dequantized(target.layer) if target.layer in self.quantized else target.layer.weight
        if target.adapter is not None:
            weight = weight + target.adapter.get_delta_weight(self.model.active_adapter)
        dtype = self.dtype_of(target)
        rounds = dtype == torch.bfloat16 and target.adapter is not None and not isinstance(target.adapter, Embedding)
        return round_randomly(weight) if rounds else weight.to(dtype)

    @torch.no_grad()
    def sync(self) -> None:
        """Update the copies to the current weights; rounding to bfloat16 draws from torch's global generator."""
        for target in self.targets():
            merged = self.merged(target)
            if (kept := self.copies.get(target.layer)) is not None:
                kept.copy_(merged)  # keeps the address, which CUDA graphs have recorded
            else:
                self.copies[target.layer] = torch.nn.Parameter(merged, requires_grad=False)

    def free(self) -> None:
        """Free the copies' memory until the next `sync`."""
        self.copies.clear()

    @contextmanager
    def active(self):
        """Let the model compute with the copies, without gradients; restore its matrices at the end."""
        targets = [(target, getattr(target.layer, "weight", None)) for target in self.targets()]
        hidden = without_quantizer(self.model.get_base_model()) if self.quantized else nullcontext()
        try:
            with torch.no_grad(), self.model.disable_adapter(), hidden:
                for target, _ in targets:
                    if target.layer in self.quantized:
                        setattr(target.parent, target.name, linear_of(target.layer, self.copies[target.layer]))
                    else:
                        target.layer.weight = self.copies[target.layer]
                yield
        finally:
            for target, weight in targets:
                if target.layer in self.quantized:
                    setattr(target.parent, target.name, target.layer)
                else:
                    target.layer.weight = weight


def matrix_shape(layer: torch.nn.Module) -> tuple[int, ...]:
    """Return the shape of a layer's matrix; 4-bit values are stored two per byte."""
    in_features, out_features = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return (out_features, in_features) if in_features and out_features else tuple(layer.weight.shape)


def linear_of(layer: torch.nn.Module, weight: torch.nn.Parameter) -> torch.nn.Linear:
    """Return a linear layer with a copy of a quantized layer's matrix, and its bias."""
    out_features, in_features = weight.shape
    with torch.device("meta"):
        linear = torch.nn.Linear(in_features, out_features, bias=False)
    linear.weight = weight
    if layer.bias is not None:
        linear.bias = torch.nn.Parameter(layer.bias.detach().to(weight.dtype), requires_grad=False)
    return linear.eval()


def round_randomly(weight: torch.Tensor) -> torch.Tensor:
    """Round a float32 tensor to bfloat16, each number up or down at random, with the correct expected value.

    Most bases are stored in bfloat16. Rounded to the nearest, W + BA would equal W wherever BA is less than half of W's
    last digit: for hundreds of steps, while the entries of BA are small, the initial model would be sampled. Draw from
    torch's global generator.
    """
    bits = weight.float().view(torch.int32)  # bfloat16 is the upper half of float32
    bits = torch.randint_like(bits, 1 << 16).add_(bits).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).bfloat16()
