"""Copies of a model's matrices with its adapter merged into them, to sample from: a token then takes fewer operations.

The base's own matrices, which other models may share, stay as they are.
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
    """Return whether the adapter can be merged into copies: plain LoRA layers only, on a base in float32 or 4 bits.

    DoRA, biases, whole trained modules and experts of a mixture are not W + B A. LLM.int8 also rounds what flows into
    its layers, so that a copy would not compute what they do.

    Args:
        bf16: whether the model computes under bf16 autocast, where a base in bfloat16 works too.
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
    """Return the dtype of the copies of quantized matrices: that which flows through the model."""
    return torch.bfloat16 if bf16 else model.dtype


class Place(NamedTuple):
    """Where a copy stands: the layer that computes with the matrix, and the LoRA layer around it, if there is one."""

    parent: torch.nn.Module
    name: str
    layer: torch.nn.Module
    adapter: LoraLayer | None


class MergedCopies:
    """Copies of the adapted matrices with the adapter merged into them, and of all others that are quantized.

    Args:
        model: under an adapter that `can_merge`.
        bf16: whether the copies of linear layers are in bfloat16, which autocast would cast them to for every token
            (see `round_randomly`). Embeddings, which autocast does not cast, keep the base's dtype.
    """

    def __init__(self, model: PeftModel, bf16: bool = False):
        self.model, self.bf16 = model, bf16
        self.quantized = quantized_layers(model)
        self.copies: dict[torch.nn.Module, torch.nn.Parameter] = {}

    def places(self) -> Iterator[Place]:
        """Yield each matrix that is copied."""
        for path, layer in list(self.model.named_modules()):
            above, _, name = path.rpartition(".")
            parent = self.model.get_submodule(above)
            adapter = parent if isinstance(parent, LoraLayer) and name == "base_layer" else None
            if adapter is not None or layer in self.quantized:
                yield Place(parent, name, layer, adapter)

    def dtype_of(self, place: Place) -> torch.dtype:
        """Return the dtype of a copy."""
        if place.layer in self.quantized:
            return copy_dtype(self.model, self.bf16)
        return torch.bfloat16 if self.bf16 and isinstance(place.adapter, Linear) else place.layer.weight.dtype

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most copies."""
        return next(self.dtype_of(place) for place in self.places())

    @property
    def bytes(self) -> int:
        """Bytes of all copies, and of the float32 tensors of the largest one while it is made."""
        sizes = [(math.prod(matrix_shape(place.layer)), self.dtype_of(place)) for place in self.places()]
        temporary = max(count * 4 * (1 if dtype == torch.float32 else 2) for count, dtype in sizes)
        return sum(count * dtype.itemsize for count, dtype in sizes) + temporary

    @torch.no_grad()
    def merged(self, place: Place) -> torch.Tensor:
        """Return a copy of the current matrix; draws from torch's global generator to round to bfloat16."""
        weight = dequantized(place.layer) if place.layer in self.quantized else place.layer.weight
        if place.adapter is not None:
            weight = weight + place.adapter.get_delta_weight(self.model.active_adapter)
        dtype = self.dtype_of(place)
        rounds = dtype == torch.bfloat16 and place.adapter is not None and not isinstance(place.adapter, Embedding)
        return round_randomly(weight) if rounds else weight.to(dtype)

    @torch.no_grad()
    def sync(self) -> None:
        """Make the copies those of the current weights; draws from torch's global generator to round to bfloat16."""
        for place in self.places():
            merged = self.merged(place)
            if (kept := self.copies.get(place.layer)) is not None:
                kept.copy_(merged)  # at its address, which CUDA graphs have recorded
            else:
                self.copies[place.layer] = torch.nn.Parameter(merged, requires_grad=False)

    def free(self) -> None:
        """Free the copies' memory until the next `sync`."""
        self.copies.clear()

    @contextmanager
    def in_place(self):
        """Let the model compute, without gradients, with the copies; its own matrices are restored at the end."""
        places = [(place, getattr(place.layer, "weight", None)) for place in self.places()]
        hidden = without_quantizer(self.model.get_base_model()) if self.quantized else nullcontext()
        try:
            with torch.no_grad(), self.model.disable_adapter(), hidden:
                for place, _ in places:
                    if place.layer in self.quantized:
                        setattr(place.parent, place.name, linear_of(place.layer, self.copies[place.layer]))
                    else:
                        place.layer.weight = self.copies[place.layer]
                yield
        finally:
            for place, weight in places:
                if place.layer in self.quantized:
                    setattr(place.parent, place.name, place.layer)
                else:
                    place.layer.weight = weight


def matrix_shape(layer: torch.nn.Module) -> tuple[int, ...]:
    """Return the shape of a layer's matrix; 4 bits are stored two to a byte."""
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


@contextmanager
def temporarily_merged(model: PeftModel, bf16: bool = False):
    """Let the model compute, without gradients, with its adapter merged into copies of its matrices as they are now."""
    copies = MergedCopies(model, bf16)
    copies.sync()
    with copies.in_place():
        yield


def round_randomly(weight: torch.Tensor) -> torch.Tensor:
    """Return a float32 tensor in bfloat16, each number rounded up or down at random, with the right expected value.

    Most bases come in bfloat16. Rounded to the nearest, W + BA would equal W wherever BA is less than half of W's last
    digit: for hundreds of steps, while the entries of BA are small, the sampled model would be the initial one.
    Draws from torch's global generator.
    """
    bits = weight.float().view(torch.int32)  # a bfloat16 is the upper half of a float32
    bits = torch.randint_like(bits, 1 << 16).add_(bits).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).bfloat16()
