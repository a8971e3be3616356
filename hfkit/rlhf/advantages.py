"""Token rewards and generalized advantage estimation (GAE) from scores, KL and values.

Per-token tensors are float (B, R), masks bool (B, R). The mask is True on the tokens of a response, its stop token
included; nothing outside it is read.
"""

import torch


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens of the mask; 0 for an empty mask."""
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def kl_per_token(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: str = "k1") -> torch.Tensor:
    """Return the k1 or k3 estimate of KL(policy || reference), in nats, from the sampled token alone.

    With r = ref / policy: k1 = -log r, k3 = r - 1 - log r. Both are unbiased; k3 is never negative and varies less.
    http://joschu.net/blog/kl-approx.html
    """
    log_ratio = ref_logprobs - logprobs
    return -log_ratio if estimator == "k1" else log_ratio.exp() - 1 - log_ratio


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """Return the reward of each token: the KL penalty, plus the score (B,) on the last token of the response.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2; Ouyang et al. 2022 (arXiv 2203.02155), equation 2.
    """
    rewards = (-kl_coef * kl).where(mask, 0.0)
    last = mask.sum(1) - 1
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] += scores.to(rewards.dtype)
    return rewards


def advantages_and_returns(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the GAE advantages and the returns that the value model learns, 0 outside the mask.

    delta_t = r_t + gamma V(s_t+1) - V(s_t), A_t = delta_t + gamma lam A_t+1, return_t = A_t + V(s_t); the state after
    the last token of a response has value 0. Schulman et al. 2016 (arXiv 1506.02438), equation 16.
    """
    values = values.where(mask, 0.0)
    advantages = torch.zeros_like(values)
    following, advantage = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = (delta + gamma * lam * advantage).where(mask[:, t], 0.0)
        advantages[:, t] = advantage
        following = values[:, t]
    return advantages, (advantages + values).where(mask, 0.0)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """Return 1 - Var(return - value) / Var(return).

    1 is a perfect value model, 0 a constant one, below 0 worse than a constant; NaN where all returns are equal.
    """
    values, returns = values[mask].float(), returns[mask].float()
    variance = returns.var(unbiased=False)
    return float(1 - (returns - values).var(unbiased=False) / variance) if variance > 0 else float("nan")
