"""The losses of PPO, per token: float (B, R), each with a bool (B, R) that marks the clipped tokens."""

import torch


def policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clipped surrogate as a loss of each token, and where the clip is active.

    max(-A ratio, -A clip(ratio, 1 - c, 1 + c)) with ratio = policy / policy that sampled. Schulman et al. 2017
    (arXiv 1707.06347), equation 7.
    """
    ratio = (logprobs - old_logprobs).exp()
    free, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.max(free, clipped), clipped > free


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return half the squared error of the value of each token, and where the clip is active.

    A value that moved further than `cliprange` from the old one counts as clipped if that error is larger, as in
    OpenAI's baselines (ppo2) and in lm-human-preferences.
    """
    clipped = values.clamp(old_values - cliprange, old_values + cliprange)
    free_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    return 0.5 * torch.max(free_error, clipped_error), clipped_error > free_error
