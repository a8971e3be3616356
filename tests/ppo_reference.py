"""PPO for language models as in the papers: one row and one token at a time, without padding or sharing.

Written from Ziegler et al. 2019 (1909.08593), Schulman et al. 2016 (1506.02438) and 2017 (1707.06347), Ouyang et al.
2022 (2203.02155) and http://joschu.net/blog/kl-approx.html, not from hfkit's code. A response is a list of token ids;
values per token are lists of scalars of the same length.
"""

import torch


def logits_after(model, ids: list[int], temperature: float) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0, -1] / temperature


def logprobs(model, prompt: list[int], reply: list[int], temperature: float) -> tuple[list, list]:
    """Return log pi(token | prefix) of each token of the response, and the entropy at it."""
    taken, entropies = [], []
    for index, token in enumerate(reply):
        logits = logits_after(model, prompt + reply[:index], temperature)
        weights = torch.exp(logits - logits.max())
        probabilities = weights / weights.sum()
        taken.append(torch.log(probabilities[token]))
        entropies.append(-sum(p * torch.log(p) for p in probabilities))
    return taken, entropies


def values(model, prompt: list[int], reply: list[int]) -> list:
    """Return V(prefix) for each token of the response: the classifier's score of the tokens before it."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    states = []
    for index in range(len(reply)):
        body = getattr(plain, plain.base_model_prefix)
        hidden = body(input_ids=torch.tensor([prompt + reply[:index]])).last_hidden_state
        states.append(plain.score(hidden[0, -1])[0])
    return states


def kl(ours: list, theirs: list, estimator: str) -> list:
    ratios = [torch.exp(b - a) for a, b in zip(ours, theirs, strict=True)]
    return [-torch.log(r) if estimator == "k1" else (r - 1) - torch.log(r) for r in ratios]


def rewards(kls: list, score: float, coef: float) -> list:
    paid = [-coef * one for one in kls]
    paid[-1] = paid[-1] + score
    return paid


def advantages(paid: list, states: list, gamma: float, lam: float) -> list:
    """Return the sum of (gamma lambda)^l delta_{t+l}, written out; the value after the last token is 0."""
    after = [*states[1:], 0.0]
    deltas = [r + gamma * w - v for r, v, w in zip(paid, states, after, strict=True)]
    return [sum((gamma * lam) ** step * delta for step, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


def whitened(rows: list[list], keep_mean: bool = False) -> list[list]:
    """Normalize all tokens of all rows to mean 0 and variance 1."""
    every = [one for row in rows for one in row]
    mean = sum(every) / len(every)
    std = (sum((one - mean) ** 2 for one in every) / len(every) + 1e-8) ** 0.5
    return [[(one - mean) / std + (mean if keep_mean else 0.0) for one in row] for row in rows]


def clip(value, low, high):
    return min(max(value, low), high)


def clipped_surrogate(new, old, advantage, cliprange: float):
    ratio = torch.exp(new - old)
    return -min(ratio * advantage, clip(ratio, 1 - cliprange, 1 + cliprange) * advantage)


def clipped_value_error(new, old, target, cliprange: float):
    return 0.5 * max((new - target) ** 2, (clip(new, old - cliprange, old + cliprange) - target) ** 2)


def language_loss(model, row: dict) -> tuple:
    """Return the sum of -log p over the labeled tokens of a row, and their number."""
    indices = [index for index in range(1, len(row["labels"])) if row["labels"][index] != -100]
    losses = []
    for index in indices:
        logits = logits_after(model, row["input_ids"][:index], 1.0)
        losses.append(-torch.log_softmax(logits, -1)[row["labels"][index]])
    return sum(losses), len(indices)
