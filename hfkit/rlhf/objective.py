"""The formulas of PPO for language models, each on its own. Per-token tensors are float (B, R), masks bool (B, R).

The mask is True on the tokens of a reply, the token that ends it among them; whatever lies outside it is never read.
"""

import torch


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of the mask; 0 where there are none."""
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def kl_per_token(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: str = "k1") -> torch.Tensor:
    """An estimate of KL(policy || reference) from the sampled token alone: k1 or k3.

    With r = ref / policy: k1 = -log r, k3 = r - 1 - log r. Both are unbiased; k3 is never negative and varies less.
    http://joschu.net/blog/kl-approx.html
    """
    log_ratio = ref_logprobs - logprobs
    return -log_ratio if estimator == "k1" else log_ratio.exp() - 1 - log_ratio


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """Reward of each token: the price of the KL, and on the last token of the reply its score (B,) as well.

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
    """Generalized advantage estimates and the returns that the value model learns, 0 outside the mask.

    delta_t = r_t + gamma V(s_t+1) - V(s_t), A_t = delta_t + gamma lam A_t+1, return_t = A_t + V(s_t); a reply's state
    after its last token is worth 0. Schulman et al. 2016 (arXiv 1506.02438), equation 16.
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


def policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped surrogate as a loss of each token, and where the clip took hold (bool).

    max(-A ratio, -A clip(ratio, 1 - c, 1 + c)) with ratio = policy / policy that sampled. Schulman et al. 2017
    (arXiv 1707.06347), equation 7.
    """
    ratio = (logprobs - old_logprobs).exp()
    free, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.max(free, clipped), clipped > free


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error of each token's value, and where the clip took hold (bool).

    A value that moved further than `cliprange` from the old one counts at the clip if that is worse, as in OpenAI's
    baselines (ppo2) and in lm-human-preferences.
    """
    clipped = values.clamp(old_values - cliprange, old_values + cliprange)
    free_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    return 0.5 * torch.max(free_error, clipped_error), clipped_error > free_error


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """1 - Var(return - value) / Var(return): 1 is a perfect value model, 0 a constant one, below 0 worse than that."""
    values, returns = values[mask].float(), returns[mask].float()
    variance = returns.var(unbiased=False)
    return float(1 - (returns - values).var(unbiased=False) / variance) if variance > 0 else float("nan")
