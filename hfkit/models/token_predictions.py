"""Losses and log-probabilities of tokens without the logits of all of them in memory at once.

With a large vocabulary, logits take most of the memory. Here the model computes the hidden states, and its output head
the logits of a chunk of tokens at a time; the backward pass computes those of a chunk again.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

from hfkit.core.device import keep_random_state
from hfkit.data.forms import IGNORE
from hfkit.models.zero import gathers_head, has_partitioned_head, whole_head

Measure = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
"""From float logits (N, V) and targets (N,) to tensors (N,)."""
Scaling = tuple[float, float | None]
"""The factor and the cap of logits."""

LOGITS = {"cpu": 1 << 26, "cuda": 1 << 25, "cuda, trained head": 1 << 28}
"""Logits of a chunk: on a GPU 128 MiB in float32, 1,024 tokens with a vocabulary of 32,768; or 1 GiB if the head is
trained, since each chunk then adds to a gradient as large as the head."""
SCALES = ("logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
"""Keys of configs whose value multiplies or divides the output of the head."""
CAP = "final_logit_softcapping"
"""The key of a cap c: logits become c tanh(logits / c)."""


@dataclass(frozen=True)
class Head:
    """What computes logits (..., V) of hidden states (..., H): a layer, whose output is scaled, then capped."""

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
    """Return the model of Transformers itself, without DistributedDataParallel; LoRA layers stay in it."""
    model = extract_model_from_parallel(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def to_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float32; float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def shifted(labels: torch.Tensor) -> torch.Tensor:
    """Return for each position the label of the next one, (B, T); the last predicts nothing."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def measure_predictions(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], targets: torch.Tensor, measure: Measure
) -> tuple[torch.Tensor, ...]:
    """Return what `measure` computes of the targets that are not IGNORE, row by row, (N,) each.

    Args:
        model: a causal LM, with or without an adapter.
        inputs: of its forward pass, (B, T) each.
        targets: the token that follows each position, int64 (B, T), or IGNORE.
    """
    return measure_states(*predicting_states(model, inputs, targets), measure, chunk_size(model))


def measure_states(
    head: Head | None, states: torch.Tensor, targets: torch.Tensor, measure: Measure, size: int
) -> tuple[torch.Tensor, ...]:
    """Return what `measure` computes of `predicting_states`, `size` tokens at a time."""
    if head is None:
        return measure(to_float32(states), targets)
    chunks = zip(states.split(size), targets.split(size), strict=True)
    of_chunk = partial(measure_chunk, head, measure)
    if torch.is_grad_enabled() and len(targets) > size:
        of_chunk = partial(checkpoint, of_chunk, use_reentrant=False)
    return tuple(torch.cat(parts) for parts in zip(*(of_chunk(*chunk) for chunk in chunks), strict=True))


def predicting_states(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], targets: torch.Tensor
) -> tuple[Head | None, torch.Tensor, torch.Tensor]:
    """Return the model's head, the hidden states (N, H) that predict targets, and those targets (N,).

    Where the head is not known, there is none, and the states are logits (N, V).
    """
    base, is_chosen = causal_model(model), targets != IGNORE
    head = head_of(model, inputs["input_ids"])
    if head is None:
        columns = is_chosen.any(0).long()
        kept = targets.shape[1] - int(columns.argmax()) if columns.any() else 1
        logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits
        # a model without `logits_to_keep` returns all
        return None, logits[is_chosen[:, -logits.shape[1] :]], targets[is_chosen]
    with last_hidden_states(base.get_decoder()) as states:
        outputs = model(**inputs, use_cache=False, logits_to_keep=1)
    return head, joined_to_outputs(states[0], model, outputs)[is_chosen], targets[is_chosen]


def joined_to_outputs(states: torch.Tensor, model: torch.nn.Module, outputs) -> torch.Tensor:
    """Return hidden states whose backward pass also goes through the outputs of the model that they were taken from.

    FSDP2 begins the backward pass of a model that it shards at its outputs; those of a backbone are the states.
    """
    has_logits = "logits" in outputs
    return JoinedStates.apply(states, outputs.logits) if has_logits and isinstance(model, FSDPModule) else states


class JoinedStates(torch.autograd.Function):
    """Hidden states, of which the gradient of logits, which is zero, is a part."""

    @staticmethod
    def forward(ctx, states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the states."""
        ctx.save_for_backward(logits)
        return states.view_as(states)

    @staticmethod
    def backward(ctx, by_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of the states and the logits."""
        (logits,) = ctx.saved_tensors
        return by_states, torch.zeros_like(logits)


def chunk_size(model: torch.nn.Module) -> int:
    """Return the tokens of a chunk; a trained head that ZeRO-3 shares out is called once, for all of them."""
    causal = causal_model(model)
    if has_partitioned_head(causal) and not gathers_head(causal):
        return sys.maxsize
    output = causal.get_output_embeddings()
    trains_head = output is not None and any(weight.requires_grad for weight in output.parameters())
    return max(1, chunk_logits(causal.device.type, trains_head) // causal.config.get_text_config().vocab_size)


def chunk_logits(device_type: str, trains_head: bool) -> int:
    """Return the logits of a chunk."""
    return LOGITS["cpu" if device_type == "cpu" else "cuda, trained head" if trains_head else "cuda"]


def measure_chunk(
    head: Head, measure: Measure, hidden: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return the measure of the targets (N,) that follow hidden states (N, H)."""
    return measure(to_float32(head(hidden)), targets)


# Measures


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
    """Return the negative log-likelihood of each target, in nats."""
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none"),)


def loss_hit_and_entropy(
    logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the negative log-likelihood of each target and, without a gradient, 1.0 where it is the likeliest token.

    The third tensor is the entropy of the distribution, without a gradient too. All are in nats.
    """
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        hits = (logits.argmax(-1) == targets).float()
        entropies = -torch.linalg.vecdot(logprobs.exp(), logprobs)
    return torch.nn.functional.nll_loss(logprobs, targets, reduction="none"), hits, entropies


def logprob_and_entropy(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0, train_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each target, and the entropy of its distribution, in nats.

    Args:
        train_entropy: whether to compute a gradient through the entropy.
    """
    logits = logits if temperature == 1.0 else logits / temperature  # dividing by 1 would copy a large tensor
    with torch.set_grad_enabled(torch.is_grad_enabled() and train_entropy):
        entropies = entropy_from_logits(logits)
    return selective_log_softmax(logits[None], targets[None])[0], entropies


# The head


def head_of(model: torch.nn.Module, ids: torch.Tensor) -> Head | None:
    """Return what computes a causal LM's logits from its last hidden states; None where that is unknown.

    Models scale their logits, or cap them, by keys of several names. So the first call for a model tests on a few of
    the ids (B, T) which of them gives the model's own logits.
    """
    base = causal_model(model)
    if base not in scalings:
        scalings[base] = find_scaling(model, ids[:1, :8])
    output, scaling = output_head(base), scalings[base]
    return Head(output, *scaling) if output is not None and scaling else None


class Unhooked(torch.nn.Module):
    """A module without its own hooks."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        """Return the output of the module."""
        return self.module.forward(*inputs)


def output_head(model: PreTrainedModel) -> torch.nn.Module | None:
    """Return what computes logits from hidden states, to be called after a forward pass of the whole model; or None.

    Where FSDP2 shards the head, the pass has gathered its weights, which stay until the backward pass; where ZeRO-3
    does, `whole_head` gathers them. The hooks of the head belong to the pass, so they are left out here.
    """
    output = model.get_output_embeddings()
    return Unhooked(output) if isinstance(output, FSDPModule) or gathers_head(model) else output


@torch.no_grad()
def find_scaling(model: torch.nn.Module, ids: torch.Tensor) -> Scaling | None:
    """Return the first scaling that gives the logits of a forward pass on ids (1, T), or None."""
    base = causal_model(model)
    output = base.get_output_embeddings()
    if output is None or base.get_decoder() is base:
        return None
    if has_partitioned_head(base) and any(output.children()):  # the hooks of an adapter's parts would gather in between
        return None
    whole = model if isinstance(model, FSDPModule) else base  # only its own pass gathers what FSDP2 shards
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
        torch.clear_autocast_cache()  # of weights cast without a gradient


@contextmanager
def last_hidden_states(backbone: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the last hidden states (B, T, H) of the forward passes of a model without head in the block."""
    states: list[torch.Tensor] = []
    handle = backbone.register_forward_hook(lambda module, given, output: states.append(output[0]))
    try:
        yield states
    finally:
        handle.remove()


def possible_scalings(config) -> list[Scaling]:
    """Return what a model with this config may do with its logits; what its keys say comes first.

    Small logits look the same with a cap and without.
    """
    values = [getattr(config, key, None) for key in SCALES]
    factors = [factor for value in values if isinstance(value, int | float) and value for factor in (value, 1 / value)]
    cap = getattr(config, CAP, None)
    return [*product([*factors, 1.0], [None] if cap is None else [cap, None])]


def agrees(found: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether logits are those of the model, up to the rounding of their dtype."""
    tolerance = 2 * torch.finfo(found.dtype).eps if found.dtype.itemsize < 4 else 1e-5
    error = (found.float() - logits.float()).abs().max() if found.shape == logits.shape else torch.inf
    return bool(error <= tolerance * logits.float().abs().max())
