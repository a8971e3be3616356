"""From who won against whom to ratings: Bradley-Terry, on the scale of Elo, with bootstrap intervals."""

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
    """A verdict on two models' replies to one prompt: 1 if that of `a` is better, 0 if that of `b`, 0.5 for a tie."""

    prompt: int
    a: str
    b: str
    result: float


def counts_of(names: Sequence[str], battles: Sequence[Battle]) -> np.ndarray:
    """How often each outcome of `OUTCOMES` came of each pair at each prompt: (prompts, pairs, 3).

    Pairs are those of `itertools.combinations(names, 2)`.
    """
    pairs = {pair: place for place, pair in enumerate(combinations(names, 2))}
    prompts = {prompt: place for place, prompt in enumerate(sorted({battle.prompt for battle in battles}))}
    counts = np.zeros((len(prompts), len(pairs), len(OUTCOMES)))
    for battle in battles:
        turned = (battle.a, battle.b) not in pairs
        pair = (battle.b, battle.a) if turned else (battle.a, battle.b)
        result = 1 - battle.result if turned else battle.result
        counts[prompts[battle.prompt], pairs[pair], OUTCOMES.index(result)] += 1
    return counts


def ratings_of(names: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Ratings of models (N,), mean `MEAN`, from counts (pairs, 3) of wins, ties and losses of each pair's first.

    The maximum likelihood of Bradley and Terry (1952), by evalica with Newman's iteration (2023); a tie is half a win
    for either. One tie is added to each pair, so that a model that always wins has a finite rating.
    """
    pairs = list(combinations(range(len(names)), 2))
    xs, ys = ([pair[side] for pair in pairs for _ in OUTCOMES] for side in (0, 1))
    winners = [Winner.X, Winner.Draw, Winner.Y] * len(pairs)
    weights = np.add(counts, [0, 1, 0]).flatten().tolist()
    fitted = bradley_terry(xs, ys, winners, weights=weights, tolerance=1e-9, limit=10_000)
    elo = 400 * np.log10(fitted.scores.sort_index().to_numpy())
    return elo - elo.mean() + MEAN


def rate(
    names: Sequence[str], battles: Sequence[Battle], resamples: int = 1000, seed: int = 0
) -> list[dict[str, float]]:
    """Of each model: name, rating with its 95% interval (`low`, `high`), wins, ties, losses.

    The interval is a percentile bootstrap over prompts, since verdicts on the same prompt depend on each other.
    """
    counts = counts_of(names, battles)
    ratings = ratings_of(names, counts.sum(0))
    prompts = len(counts)
    drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), resamples)
    again = np.array([ratings_of(names, part) for part in np.tensordot(drawn, counts, 1)])
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    rows = [
        {"name": name, "rating": float(ratings[i]), "low": float(low[i]), "high": float(high[i])}
        for i, name in enumerate(names)
    ]
    for row in rows:
        mine = [b.result if b.a == row["name"] else 1 - b.result for b in battles if row["name"] in (b.a, b.b)]
        row |= {"wins": mine.count(1), "ties": mine.count(0.5), "losses": mine.count(0)}
    return rows


def pairs_of(names: Sequence[str], battles: Sequence[Battle]) -> list[dict]:
    """Wins and ties of each pair: a, b, wins_a, wins_b, ties."""
    totals = counts_of(names, battles).sum(0).astype(int).tolist()
    return [
        {"a": a, "b": b, "wins_a": wins_a, "wins_b": wins_b, "ties": ties}
        for (a, b), (wins_a, ties, wins_b) in zip(combinations(names, 2), totals, strict=True)
    ]
