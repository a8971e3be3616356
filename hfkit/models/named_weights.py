"""The weights of a model under the names of its base's files, with the adapter merged: what another engine loads."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from hfkit.models.adapters import ADAPTED, without_adapter
from hfkit.models.merged_copies import MergedCopies, can_merge, matrix_shape
from hfkit.models.quantization import quantized_layers


class NamedWeight(NamedTuple):
    """A weight: its name, dtype and shape are known before `value` computes it, (shape), on the model's device."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    value: Callable[[], torch.Tensor]


def named_weights(model: PreTrainedModel | PeftModel, bf16: bool = False) -> list[NamedWeight]:
    """Return all weights of a model without its adapter, which is merged into them; the model stays as it is.

    Matrices in 4 bits are dequantized. One matrix at a time is computed, so that little memory is needed.

    Args:
        model: one for which `naming_fault` is None.
        bf16: whether merged and dequantized matrices are bfloat16, rounded as `MergedCopies` does; else as the model.
    """
    copies = MergedCopies(model, bf16)
    places = {place.layer: place for place in copies.places()}
    base = without_adapter(model)
    found = []
    for path, parameter in base.named_parameters():
        above, _, name = path.rpartition(".")
        place = places.get(base.get_submodule(above)) if name == "weight" else None
        if any(mark in path for mark in ADAPTED):
            continue
        path = path.replace(".base_layer.", ".")
        if place is None:
            found.append(NamedWeight(path, parameter.dtype, [*parameter.shape], parameter.detach))
        else:
            shape = [*matrix_shape(place.layer)]
            found.append(NamedWeight(path, copies.dtype_of(place), shape, lambda place=place: copies.merged(place)))
    return found


def naming_fault(model: PreTrainedModel | PeftModel, bf16: bool = False) -> str | None:
    """Return why a model's weights, with its adapter merged, are not those of its base's architecture; None if so."""
    if isinstance(model, PeftModel) and not can_merge(model, bf16):
        return "its adapter cannot be merged into copies of the base's matrices"
    if any(bits != 4 for bits in quantized_layers(model).values()):
        return "its matrices are in 8 bits"
    base = without_adapter(model)
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    weights = [getattr(end, "weight", None) for end in ends]
    if weights[0] is weights[1] and any(hasattr(end, "base_layer") for end in ends):
        return "its adapter is on an embedding that is also the output head"
    return None
