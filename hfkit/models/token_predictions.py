"""Computes losses and log-probabilities of tokens without holding the logits of all of them in memory.

With a large vocabulary, logits take most of the memory. Here the model computes the hidden states, and its output head
the logits of one chunk of tokens at a time; the backward pass recomputes them chunk by chunk.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

from hfkit.data.forms import IGNORE
from hfkit.models.output_head import Head, causal_model, head_of, joined_to_outputs, last_hidden_states
from hfkit.models.zero import gathers_head, has_partitioned_head

Measure = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
"""From float logits (N, V) and targets (N,) to tensors (N,)."""
LOGITS = {"cpu": 1 << 26, "cuda": 1 << 25, "cuda, trained head": 1 << 28}
"""Logits of a chunk: on a GPU 128 MiB in float32, 1,024 tokens with a vocabulary of 32,768; or 1 GiB if the head is
trained, since each chunk then adds to a gradient as large as the head."""


def to_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float32; float64 stays float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def shifted(labels: torch.Tensor) -> torch.Tensor:
    """Return the label of the next position for each position, (B, T); the last one predicts nothing."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def measure_predictions(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], targets: torch.Tensor, measure: Measure
) -> tuple[torch.Tensor, ...]:
    """Return the results of `measure` for the targets that are not IGNORE, row by row, (N,) each.

    Args:
        model: a causal LM, with or without an adapter.
        inputs: inputs of its forward pass, (B, T) each.
        targets: the token that follows each position, int64 (B, T), or IGNORE.
    """
    return measure_states(*predicting_states(model, inputs, targets), measure, chunk_size(model))


def measure_states(
    head: Head | None, states: torch.Tensor, targets: torch.Tensor, measure: Measure, size: int
) -> tuple[torch.Tensor, ...]:
    """Return the results of `measure` for `predicting_states`, `size` tokens at a time."""
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

    If the head is unknown, return None for it and logits (N, V) as states.
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


def chunk_size(model: torch.nn.Module) -> int:
    """Return the tokens of a chunk; a trained head that ZeRO-3 partitions is called once for all tokens."""
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
    """Return the negative log-likelihood of each target and, without a gradient, 1.0 if it is the likeliest token.

    The third tensor is the entropy of the distribution, also without a gradient. All are in nats.
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
        train_entropy: whether the entropy has a gradient.
    """
    logits = logits if temperature == 1.0 else logits / temperature  # division by 1 would copy a large tensor
    with torch.set_grad_enabled(torch.is_grad_enabled() and train_entropy):
        entropies = entropy_from_logits(logits)
    return selective_log_softmax(logits[None], targets[None])[0], entropies


def pair_values(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the log-probability of each target and, without a gradient, what TRL's loss of pairs reads with it.

    That is the entropy of the distribution, the mean logit, whether the target is the likeliest token, and the
    logarithm of the sum of the squared probabilities.
    """
    logprobs, entropies = logprob_and_entropy(logits, targets)
    with torch.no_grad():
        squares = (2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1)
        return logprobs, entropies, logits.mean(-1), logits.argmax(-1) == targets, squares
