"""Sums the losses of tokens and computes the gradient chunk by chunk with it: no logits are kept or recomputed.

Like liger-kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989, 3.2), for any head and measure.
"""

from dataclasses import replace
from functools import partial

import torch
from torch.func import functional_call

from hfkit.models.output_head import Head, causal_model
from hfkit.models.token_predictions import Measure, chunk_size, measure_chunk, measure_states, predicting_states
from hfkit.models.zero import gathers_head, whole_head


def sum_losses(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], targets: torch.Tensor, measure: Measure
) -> tuple[torch.Tensor, ...]:
    """Return the sum of the first tensor of `measure_predictions`, a scalar, and the others without a gradient."""
    head, states, targets = predicting_states(model, inputs, targets)
    size, base = chunk_size(model), causal_model(model)
    with whole_head(base):
        is_short = len(targets) <= size and not gathers_head(base)  # all processes must gather it in the same way
        if head is None or not torch.is_grad_enabled() or is_short or overflows(states):
            losses, *others = measure_states(head, states, targets, measure, size)
            return losses.sum(), *others
        trained = {name: weight for name, weight in head.output.named_parameters() if weight.requires_grad}
        of_chunk = partial(measure_with, head, measure, [*trained])
        return SummedLosses.apply(of_chunk, size, states, targets, *trained.values())


def measure_with(
    head: Head,
    measure: Measure,
    names: list[str],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    weights: list[torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """Return the measure of the targets (N,) from a head whose weights of these names are replaced."""
    output = partial(functional_call, head.output, dict(zip(names, weights, strict=True)))
    return measure_chunk(replace(head, output=output), measure, hidden, targets)


class SummedLosses(torch.autograd.Function):
    """The sum of the losses of hidden states (N, H), with gradients of the states and of the head's weights."""

    @staticmethod
    def forward(ctx, of_chunk, size: int, states: torch.Tensor, targets: torch.Tensor, *weights: torch.Tensor):
        """Return the sum, and the other results of `of_chunk` for all chunks, (N,) each."""
        total, others = torch.zeros((), device=states.device), []
        by_states, by_weights = torch.empty_like(states), [None] * len(weights)
        copies = [autocast_copy(weight).requires_grad_() for weight in weights]  # cast once, not in each chunk
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            with torch.enable_grad(), without_autocast_cache(states.device.type):
                own = states[part].detach().requires_grad_()
                losses, *more = of_chunk(own, targets[part], copies)
                loss = losses.sum()
            # a weight of another adapter on the head has no gradient
            by_states[part], *found = torch.autograd.grad(loss, [own, *copies], allow_unused=True)
            for index, gradient in enumerate(found):
                if gradient is not None:
                    before = by_weights[index]
                    by_weights[index] = gradient.to(weights[index].dtype) if before is None else before.add_(gradient)
            total += loss.detach()
            others.append([tensor.detach() for tensor in more])
        ctx.save_for_backward(by_states, *by_weights)
        joined = [torch.cat(parts) for parts in zip(*others, strict=True)]
        ctx.mark_non_differentiable(*joined)
        return total, *joined

    @staticmethod
    def backward(ctx, by_total: torch.Tensor, *_):
        """Return the gradients of the states and weights."""
        # in place, since the head's gradient is large; autograd allows no second backward pass through the graph
        by_states, *by_weights = (one if one is None else one.mul_(by_total) for one in ctx.saved_tensors)
        return None, None, by_states, None, *by_weights


def overflows(states: torch.Tensor) -> bool:
    """Return whether the head computes in float16: a gradient summed over tokens can exceed 65504.

    Only the backward pass of the whole loss, which `GradScaler` scales, keeps it in range.
    """
    kind = states.device.type
    is_half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return is_half or states.dtype == torch.float16


def autocast_copy(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight, detached, in the dtype in which autocast multiplies by it; without autocast, its own dtype."""
    kind = weight.device.type
    casts = torch.is_autocast_enabled(kind) and weight.dtype == torch.float32 and weight.dim() > 1
    return weight.detach().to(torch.get_autocast_dtype(kind)) if casts else weight.detach()


def without_autocast_cache(kind: str) -> torch.autocast:
    """Return the active autocast without its cache, whose casts would belong to another graph."""
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)
