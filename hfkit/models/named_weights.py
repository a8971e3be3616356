"""Exports the weights of a model, with its adapter merged, under the names in its base's files, for other engines."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from hfkit.core.unwrap import without_adapter
from hfkit.models.adapters import ADAPTED
from hfkit.models.merged_copies import MergedCopies, can_merge, matrix_shape
from hfkit.models.multimodal import stored_names
from hfkit.models.quantization import quantized_layers


class NamedWeight(NamedTuple):
    """A weight: name, dtype and shape are known before `value` computes it, (shape), on the model's device."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    value: Callable[[], torch.Tensor]


def named_weights(model: PreTrainedModel | PeftModel, bf16: bool = False) -> list[NamedWeight]:
    """Return all weights of a model with its adapter merged into them; the model does not change.

    4-bit matrices are dequantized. Matrices are computed one at a time, to need little memory. Experts that the model
    has in one tensor are separate weights if they are so in its files.

    Args:
        model: a model for which `naming_fault` returns None.
        bf16: whether merged and dequantized matrices are bfloat16, rounded as in `MergedCopies`; else the model's
            dtype.
    """
    copies = MergedCopies(model, bf16)
    targets = {target.layer: target for target in copies.targets()}
    base = without_adapter(model)
    found = []
    for path, parameter in base.named_parameters():
        above, _, name = path.rpartition(".")
        target = targets.get(base.get_submodule(above)) if name == "weight" else None
        if any(mark in path for mark in ADAPTED):
            continue
        path = path.replace(".base_layer.", ".")
        if target is None:
            found.append(NamedWeight(path, parameter.dtype, [*parameter.shape], parameter.detach))
        else:
            shape = [*matrix_shape(target.layer)]
            found.append(NamedWeight(path, copies.dtype_of(target), shape, lambda target=target: copies.merged(target)))
    return in_files(base, found)


def in_files(model: PreTrainedModel, weights: list[NamedWeight]) -> list[NamedWeight]:
    """Return a model's weights as its files have them: with other names, or the experts of a tensor one by one."""
    stored = stored_names(model, model.name_or_path)

    @lru_cache(maxsize=1)  # the parts of a weight are taken one after the other
    def parts(index: int) -> dict[str, torch.Tensor]:
        return revert_weight_conversion(model, {weights[index].name: weights[index].value()})

    found = []
    for index, weight in enumerate(weights):
        empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        for name, part in revert_weight_conversion(model, {weight.name: empty}).items():
            file_name = stored(name) if name == weight.name else name  # Transformers knows some names of text models
            found.append(
                NamedWeight(file_name, part.dtype, [*part.shape], lambda index=index, name=name: parts(index)[name])
            )
    return found


def naming_fault(model: PreTrainedModel | PeftModel, bf16: bool = False) -> str | None:
    """Return why a model's merged weights do not fit the architecture of its base; None if they do."""
    if isinstance(model, PeftModel) and not can_merge(model, bf16):
        return "its adapter cannot be merged into copies of the base's matrices"
    if any(bits != 4 for bits in quantized_layers(model).values()):
        return "its matrices are in 8 bits"
    base = without_adapter(model)
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    weights = [getattr(end, "weight", None) for end in ends]
    if weights[0] is weights[1] and any(hasattr(end, "base_layer") for end in ends):
        return "its adapter is on an embedding that is also the output head"
    names = [one.name for one in named_weights(model, bf16)]
    if len({*names}) < len(names):
        return "its files join weights that are separate in the model"
    return None
