"""Checks how far a judge can be trusted: models trained on it, and biases for length or the first response."""

from hfkit.config.evaluation import JUDGE_KINDS, ArenaConfig, split_name
from hfkit.core.errors import HfkitError
from hfkit.evaluation.judges import Match, Verdict
from hfkit.records.lineage import ancestors, family_records
from hfkit.records.record import known_record, model_identity


def training_judge_warning(config: ArenaConfig, judge: str) -> str | None:
    """Return a warning if a model was trained on the reward that judges (`judge`), or is the judge; else None.

    Raises:
        HfkitError: a model was trained on the judge, and `allow_training_judge` is off.
    """
    weights = model_identity(judge)["weights_sha256"] if config.judge == "reward" else None
    trained = []
    for name, path in map(split_name, config.models):
        record = known_record(path) or {}
        rewards = [one["weights_sha256"] for one in ancestors(record.get("lineage", [])) if one["role"] == "reward"]
        by_function = config.judge == "function" and judge in reward_functions_in_lineage(record)
        if by_function or (weights is not None and weights in rewards):
            trained.append(name)
    if not trained:
        return self_judge_warning(config)
    if not config.allow_training_judge:
        raise HfkitError(
            f"{', '.join(trained)} was trained on {judge}, so its scores are biased: name another judge, or accept it "
            "with --allow_training_judge"
        )
    return f"the judge is the reward that {', '.join(trained)} was trained on, and is biased toward that model"


def self_judge_warning(config: ArenaConfig) -> str | None:
    """Return a warning if one of the models is the judge: it favors its own responses (arXiv 2404.13076)."""
    if config.judge in JUDGE_KINDS:
        return None
    judge = model_identity(config.judge)
    same = [name for name, path in map(split_name, config.models) if model_identity(path) == judge]
    return f"the judge is {same[0]} itself, and models favor their own responses" if same else None


def reward_functions_in_lineage(record: dict) -> list[str]:
    """Return the reward functions of a run and of its ancestors with readable records."""
    parents = [(entry["path"], entry["revision"] or "main") for entry in ancestors(record.get("lineage", []))]
    records = [record, *(parent for _, _, parent in family_records(parents))]
    return [function for one in records for function in reward_functions_of(one.get("config", {}))]


def reward_functions_of(settings: dict) -> list[str]:
    """Return the reward functions that a run was trained on, without those of weight 0."""
    functions = settings.get("reward_functions", [])
    weights = settings.get("reward_weights") or [1.0] * len(functions)
    # the weight of a reward model, if there is one, comes before those of the functions
    return [one for one, weight in zip(reversed(functions), reversed(weights), strict=False) if weight != 0]


def judge_bias(matches: list[Match], verdicts: list[Verdict]) -> dict:
    """Return measures of a judge's biases.

    Returns:
        `longer_wins`: share of verdicts, without ties and responses of equal length, for the response with more words;
        `decided`: number of these verdicts; `first_wins`: share of the decided comparisons that the response shown
        first won; `consistent`: share of pairs with the same verdict in both orders. A share of nothing is None, such
        as the last two for a judge that reads one response at a time.
    """
    decided = [
        (len(m.a.split()) - len(m.b.split())) * (v.result - 0.5)
        for m, v in zip(matches, verdicts, strict=True)
        if v.result != 0.5 and len(m.a.split()) != len(m.b.split())
    ]
    comparisons = [first for verdict in verdicts for first in verdict.firsts if first != 0.5]
    both_orders = [verdict.firsts for verdict in verdicts if len(verdict.firsts) == 2]
    return {
        "longer_wins": fraction([sign > 0 for sign in decided]),
        "decided": len(decided),
        "first_wins": fraction([first == 1 for first in comparisons]),
        "consistent": fraction([forward + backward == 1 for forward, backward in both_orders]),
    }


def inconsistency_warning(bias: dict) -> str | None:
    """Return a warning about a judge that contradicts itself on most pairs when their order is swapped, or None."""
    if bias["consistent"] is None or bias["consistent"] >= 0.5:
        return None
    return (
        f"the judge contradicts itself on {1 - bias['consistent']:.0%} of the pairs when their order is swapped, which "
        "counts as a tie: its verdicts say little about the models"
    )


def fraction(flags: list[bool]) -> float | None:
    """Return the fraction of flags that are true; None if there are none."""
    return sum(flags) / len(flags) if flags else None


def bias_lines(bias: dict) -> list[str]:
    """Return lines for the terminal on the judge's possible biases."""
    lines = {
        "longer_wins": "the longer response won {longer_wins:.0%} of {decided} decided verdicts",
        "first_wins": "the response shown first won {first_wins:.0%} of the comparisons",
        "consistent": "both orders gave the same verdict on {consistent:.0%} of the pairs",
    }
    return [line.format(**bias) for key, line in lines.items() if bias[key] is not None]
