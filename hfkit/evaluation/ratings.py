"""Rates models by their wins against each other: Bradley-Terry on the Elo scale, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from evalica import Winner, bradley_terry

MEAN = 1000
"""Mean of the ratings; a difference of 400 is odds of ten to one, as in chess (Elo 1978)."""
OUTCOMES = (1.0, 0.5, 0.0)


@dataclass(frozen=True)
class Battle:
    """A verdict on two models' responses to one prompt: 1 if that of `a` is better, 0 if that of `b`, 0.5 for a tie."""

    prompt: int
    a: str
    b: str
    result: float


def count_outcomes(names: Sequence[str], battles: Sequence[Battle]) -> np.ndarray:
    """Count each outcome of `OUTCOMES` for each pair at each prompt: (prompts, pairs, 3).

    Pairs are those of `itertools.combinations(names, 2)`.
    """
    pairs = {pair: index for index, pair in enumerate(combinations(names, 2))}
    prompts = {prompt: index for index, prompt in enumerate(sorted({battle.prompt for battle in battles}))}
    counts = np.zeros((len(prompts), len(pairs), len(OUTCOMES)))
    for battle in battles:
        swapped = (battle.a, battle.b) not in pairs
        pair = (battle.b, battle.a) if swapped else (battle.a, battle.b)
        result = 1 - battle.result if swapped else battle.result
        counts[prompts[battle.prompt], pairs[pair], OUTCOMES.index(result)] += 1
    return counts


def fit_ratings(names: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Return ratings of N models, (N,) with mean `MEAN`, from counts (pairs, 3) of wins, ties and losses of the first.

    The maximum likelihood of the model of Bradley and Terry (1952), by evalica with Newman's iteration (2023); a tie
    is half a win for either. One tie is added to each pair, so that a model that always wins has a finite rating.
    """
    pairs = list(combinations(range(len(names)), 2))
    xs, ys = ([pair[side] for pair in pairs for _ in OUTCOMES] for side in (0, 1))
    winners = [Winner.X, Winner.Draw, Winner.Y] * len(pairs)
    weights = np.add(counts, [0, 1, 0]).flatten().tolist()
    fitted = bradley_terry(xs, ys, winners, weights=weights, tolerance=1e-9, limit=10_000)
    elo = 400 * np.log10(fitted.scores.sort_index().to_numpy())
    return elo - elo.mean() + MEAN


def rate_models(
    names: Sequence[str], battles: Sequence[Battle], resamples: int = 1000, seed: int = 0
) -> list[dict[str, float]]:
    """Return, for each model: name, rating with its 95% interval (`low`, `high`), wins, ties, losses.

    The interval is a percentile bootstrap over prompts, since verdicts on the same prompt depend on each other.
    """
    counts = count_outcomes(names, battles)
    ratings = fit_ratings(names, counts.sum(0))
    prompts = len(counts)
    drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    resampled = np.array([fit_ratings(names, part) for part in np.tensordot(drawn, counts, 1)])
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    rows = [
        {"name": name, "rating": float(ratings[i]), "low": float(low[i]), "high": float(high[i])}
        for i, name in enumerate(names)
    ]
    for row in rows:
        results = [b.result if b.a == row["name"] else 1 - b.result for b in battles if row["name"] in (b.a, b.b)]
        row |= {"wins": results.count(1), "ties": results.count(0.5), "losses": results.count(0)}
    return rows


def pair_results(names: Sequence[str], battles: Sequence[Battle]) -> list[dict]:
    """Return the wins and ties of each pair: a, b, wins_a, wins_b, ties."""
    totals = count_outcomes(names, battles).sum(0).astype(int).tolist()
    return [
        {"a": a, "b": b, "wins_a": wins_a, "wins_b": wins_b, "ties": ties}
        for (a, b), (wins_a, ties, wins_b) in zip(combinations(names, 2), totals, strict=True)
    ]
