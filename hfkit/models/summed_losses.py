"""The sum of the losses of tokens, whose gradient is computed chunk by chunk with it: no logits are kept or repeated.

As liger-kernel's fused linear cross-entropy does (Hsu et al. 2024, arXiv 2410.10989, 3.2), for any head and measure.
"""

from functools import partial

import torch

from hfkit.models.token_predictions import (
    Measure,
    causal_model,
    chunk_size,
    measure_chunk,
    measure_states,
    predicting_states,
)


def sum_losses(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], targets: torch.Tensor, measure: Measure
) -> tuple[torch.Tensor, ...]:
    """Return the sum of the first tensor of `measure_predictions`, a scalar, and its others without a gradient."""
    head, states, targets = predicting_states(model, inputs, targets)
    size = chunk_size(model)
    if head is None or not torch.is_grad_enabled() or len(targets) <= size:
        losses, *others = measure_states(head, states, targets, measure, size)
        return losses.sum(), *others
    weights = [weight for weight in causal_model(model).get_output_embeddings().parameters() if weight.requires_grad]
    return SummedLosses.apply(partial(measure_chunk, head, measure), size, states, targets, *weights)


class SummedLosses(torch.autograd.Function):
    """The sum of the losses of hidden states (N, H), with its gradients by them and by the weights of the head."""

    @staticmethod
    def forward(ctx, of_chunk, size: int, states: torch.Tensor, targets: torch.Tensor, *weights: torch.Tensor):
        """Return the sum, and what else `of_chunk` returns of all chunks, (N,) each."""
        kind = states.device.type
        autocast = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        total, others = torch.zeros((), device=states.device), []
        by_states, by_weights = torch.empty_like(states), [None] * len(weights)
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            # a cached cast of a weight would belong to another graph
            with torch.enable_grad(), torch.autocast(kind, **autocast, cache_enabled=False):
                own = states[part].detach().requires_grad_()
                losses, *more = of_chunk(own, targets[part])
                loss = losses.sum()
            # a weight of another adapter on the head has no gradient
            by_states[part], *found = torch.autograd.grad(loss, [own, *weights], allow_unused=True)
            for index, gradient in enumerate(found):
                by_weights[index] = gradient if by_weights[index] is None else by_weights[index].add_(gradient)
            total += loss.detach()
            others.append([tensor.detach() for tensor in more])
        ctx.save_for_backward(by_states, *by_weights)
        joined = [torch.cat(parts) for parts in zip(*others, strict=True)]
        ctx.mark_non_differentiable(*joined)
        return total, *joined

    @staticmethod
    def backward(ctx, by_total: torch.Tensor, *_):
        """Return the gradients of the states and weights."""
        # in place, since the head's is large; another backward pass through the same graph is an error of autograd's
        by_states, *by_weights = (one if one is None else one.mul_(by_total) for one in ctx.saved_tensors)
        return None, None, by_states, None, *by_weights
