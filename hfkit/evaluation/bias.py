"""What speaks against a judge: models that were trained on it, a liking for length or for the first of two."""

from collections.abc import Iterator

from hfkit.config.evaluation import JUDGE_KINDS, ArenaConfig, split_name
from hfkit.core.errors import HfkitError
from hfkit.data.held_out import none_if_missing
from hfkit.evaluation.judges import Match, Verdict
from hfkit.records.record import model_identity, record_of


def partiality(config: ArenaConfig, judge: str) -> str | None:
    """Which models were trained on the reward that judges, or is the judge, in words; None if none.

    Args:
        judge: path of the reward model, or function.

    Raises:
        HfkitError: some were, and `allow_training_judge` is off.
    """
    weights = model_identity(judge)["weights_sha256"] if config.judge == "reward" else None
    trained = []
    for name, path in map(split_name, config.models):
        record = record_of(path) or {}
        models = [
            entry["weights_sha256"] for entry in ancestors(record.get("lineage", [])) if entry["role"] == "reward"
        ]
        by_function = config.judge == "function" and judge in functions_behind(record)
        if by_function or (weights is not None and weights in models):
            trained.append(name)
    if not trained:
        return own_judge(config)
    if not config.allow_training_judge:
        raise HfkitError(
            f"{', '.join(trained)} was trained on {judge}, so it scores well there whether it is better or not: name "
            "another judge, or let it judge nevertheless with --allow_training_judge"
        )
    return f"the judge is the reward that {', '.join(trained)} was trained on: it favours that model, better or not"


def own_judge(config: ArenaConfig) -> str | None:
    """Which of the models is the judge itself, in words: such a one favours its own replies (arXiv 2404.13076)."""
    if config.judge in JUDGE_KINDS:
        return None
    judge = model_identity(config.judge)
    same = [name for name, path in map(split_name, config.models) if model_identity(path) == judge]
    return f"the judge is {same[0]} itself, and models favour their own replies" if same else None


def functions_behind(record: dict) -> list[str]:
    """The reward functions of a run and of those that its model comes from, as far as their records are there."""
    parents = [(entry["path"], entry["revision"] or "main") for entry in ancestors(record.get("lineage", []))]
    records = [record, *(none_if_missing(record_of, path, revision) or {} for path, revision in parents)]
    return [function for one in records for function in functions_of(one.get("config", {}))]


def functions_of(settings: dict) -> list[str]:
    """The reward functions that a run of PPO was trained on: a weight of 0 trains nothing."""
    functions = settings.get("reward_functions", [])
    weights = settings.get("reward_weights") or [1.0] * len(functions)
    # the reward model's weight, if there is one, stands before those of the functions
    return [one for one, weight in zip(reversed(functions), reversed(weights), strict=False) if weight != 0]


def ancestors(lineage: list[dict]) -> Iterator[dict]:
    """Every model in a lineage, parents of parents among them."""
    for entry in lineage:
        yield entry
        yield from ancestors(entry.get("parents", []))


def bias_of(matches: list[Match], verdicts: list[Verdict]) -> dict:
    """`longer_wins`: share of the decided verdicts that went to the reply with more words, of those of unequal length.

    `first_wins`: share of the decided looks that went to the reply shown first; `consistent`: share of pairs on which
    both orders gave the same verdict. None for a judge that reads one reply at a time, or without any.
    """
    decided = [
        (len(m.a.split()) - len(m.b.split())) * (v.result - 0.5)
        for m, v in zip(matches, verdicts, strict=True)
        if v.result != 0.5 and len(m.a.split()) != len(m.b.split())
    ]
    looks = [first for verdict in verdicts for first in verdict.firsts if first != 0.5]
    twice = [verdict.firsts for verdict in verdicts if len(verdict.firsts) == 2]
    return {
        "longer_wins": share([sign > 0 for sign in decided]),
        "decided": len(decided),
        "first_wins": share([first == 1 for first in looks]),
        "consistent": share([forward + backward == 1 for forward, backward in twice]),
    }


def wavering(bias: dict) -> str | None:
    """What is wrong with a judge that mostly contradicts itself when the order is turned, in words; None of others."""
    if bias["consistent"] is None or bias["consistent"] >= 0.5:
        return None
    return (
        f"the judge contradicts itself on {1 - bias['consistent']:.0%} of the pairs when their order is turned, which "
        "counts as a tie: its verdicts say little of the models"
    )


def share(flags: list[bool]) -> float | None:
    """Share of what is true, or None of nothing."""
    return sum(flags) / len(flags) if flags else None


def bias_lines(bias: dict) -> list[str]:
    """What the judge may be biased by, in words."""
    lines = []
    if bias["longer_wins"] is not None:
        lines.append(f"the longer reply won {bias['longer_wins']:.0%} of {bias['decided']} decided verdicts")
    if bias["first_wins"] is not None:
        lines.append(f"the reply shown first won {bias['first_wins']:.0%} of the looks")
    if bias["consistent"] is not None:
        lines.append(f"both orders gave the same verdict on {bias['consistent']:.0%} of the pairs")
    return lines
