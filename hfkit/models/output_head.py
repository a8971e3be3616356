"""Calls the output head of a causal LM, which computes logits from the last hidden states, separately from its model.

Models scale or cap their logits by keys with various names; under FSDP2 and ZeRO-3 the weights of a head are
gathered only temporarily.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from hfkit.core.device import keep_random_state
from hfkit.core.unwrap import without_adapter
from hfkit.models.zero import gathers_head, has_partitioned_head, whole_head

Scaling = tuple[float, float | None]
"""The factor and the cap of logits."""

SCALES = ("logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
"""Keys of configs whose value multiplies or divides the output of the head."""
CAP = "final_logit_softcapping"
"""The key of a cap c: logits become c tanh(logits / c)."""


@dataclass(frozen=True)
class Head:
    """Computes logits (..., V) from hidden states (..., H): a layer, whose output is scaled, then capped."""

    output: torch.nn.Module
    factor: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits = self.output(hidden)
        logits = logits if self.factor == 1.0 else logits * self.factor
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


scalings: WeakKeyDictionary[torch.nn.Module, Scaling | None] = WeakKeyDictionary()


def causal_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the Transformers model without DistributedDataParallel; LoRA layers stay in it."""
    if not isinstance(model, PreTrainedModel | PeftModel):  # accelerate parses the metadata of packages at each call
        model = extract_model_from_parallel(model)
    return without_adapter(model)


def head_of(model: torch.nn.Module, ids: torch.Tensor) -> Head | None:
    """Return the head that computes a causal LM's logits from its last hidden states; None if unknown.

    Models scale or cap their logits by keys with various names. So the first call for a model tests, on a few of the
    ids (B, T), which of them reproduces the model's logits.
    """
    base = causal_model(model)
    if base not in scalings:
        scalings[base] = find_scaling(model, ids[:1, :8])
    output, scaling = output_head(base), scalings[base]
    return Head(output, *scaling) if output is not None and scaling else None


@torch.no_grad()
def find_scaling(model: torch.nn.Module, ids: torch.Tensor) -> Scaling | None:
    """Return the first scaling that reproduces the logits of a forward pass on ids (1, T), or None."""
    base = causal_model(model)
    output = base.get_output_embeddings()
    # ModernBERT's head has two layers, the last its `decoder`
    if output is None or base.get_decoder() in (base, output):
        return None
    if has_partitioned_head(base) and any(output.children()):  # hooks of its parts would gather weights too
        return None
    whole = model if isinstance(model, FSDPModule) else base  # only its own pass gathers weights that FSDP2 shards
    was_training = output.training
    output.eval()  # an adapter on the head may have dropout
    try:
        with keep_random_state(ids.device), last_hidden_states(base.get_decoder()) as states:
            logits = whole(input_ids=ids, use_cache=False).logits
            possible = possible_scalings(base.config.get_text_config()) if states else []
            head = output_head(base)
            with whole_head(base):
                return next((one for one in possible if agrees(Head(head, *one)(states[0]), logits)), None)
    finally:
        output.train(was_training)
        torch.clear_autocast_cache()  # it holds weights cast without a gradient


def possible_scalings(config) -> list[Scaling]:
    """Return the possible scalings of a model's logits; those from keys of its config come first.

    Small logits are nearly equal with and without a cap.
    """
    values = [getattr(config, key, None) for key in SCALES]
    factors = [factor for value in values if isinstance(value, int | float) and value for factor in (value, 1 / value)]
    cap = getattr(config, CAP, None)
    return [*product([*factors, 1.0], [None] if cap is None else [cap, None])]


def agrees(found: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether logits equal those of the model, up to the rounding of their dtype."""
    tolerance = 2 * torch.finfo(found.dtype).eps if found.dtype.itemsize < 4 else 1e-5
    error = (found.float() - logits.float()).abs().max() if found.shape == logits.shape else torch.inf
    return bool(error <= tolerance * logits.float().abs().max())


class Unhooked(torch.nn.Module):
    """A module without its own hooks."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        """Return the output of the module."""
        return self.module.forward(*inputs)


def output_head(model: PreTrainedModel) -> torch.nn.Module | None:
    """Return the module that computes logits from hidden states, to be called after a forward pass; None if unknown.

    If FSDP2 shards the head, the forward pass has gathered its weights, which stay until the backward pass; for ZeRO-3,
    `whole_head` gathers them. The hooks of the head belong to the forward pass, so they are skipped here.
    """
    output = model.get_output_embeddings()
    return Unhooked(output) if isinstance(output, FSDPModule) or gathers_head(model) else output


@contextmanager
def last_hidden_states(backbone: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the last hidden states (B, T, H) of forward passes of a backbone in the block."""
    states: list[torch.Tensor] = []
    handle = backbone.register_forward_hook(lambda module, given, output: states.append(output[0]))
    try:
        yield states
    finally:
        handle.remove()


def joined_to_outputs(states: torch.Tensor, model: torch.nn.Module, outputs) -> torch.Tensor:
    """Return hidden states whose backward pass also goes through the outputs of their model.

    FSDP2 starts the backward pass of a sharded model at its outputs; the hidden states are outputs of the backbone.
    """
    has_logits = "logits" in outputs
    return JoinedStates.apply(states, outputs.logits) if has_logits and isinstance(model, FSDPModule) else states


class JoinedStates(torch.autograd.Function):
    """Hidden states that also pass a gradient of zero to the logits."""

    @staticmethod
    def forward(ctx, states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the states."""
        ctx.save_for_backward(logits.new_zeros(()).expand_as(logits))  # takes no memory
        return states.view_as(states)

    @staticmethod
    def backward(ctx, by_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of the states and the logits."""
        return by_states, *ctx.saved_tensors
