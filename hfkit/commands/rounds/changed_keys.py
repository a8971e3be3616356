"""Refuses changed keys of samples and labels that rounds already have, before anything overwrites them."""

import json
from dataclasses import replace
from pathlib import Path

from hfkit.commands.label.report import LABEL_RESULTS
from hfkit.commands.rounds.plan import INHERITED, RoundsPlan
from hfkit.core.errors import Problem
from hfkit.core.files import read_json_mapping
from hfkit.evaluation.sample import RESULT
from hfkit.records.record import settings_of, with_later_keys

SAMPLE_KEYS = ("prompts", "max_prompts", "num_samples", "temperature", *INHERITED)
JUDGE_KEYS = ("judge", "reward_model", "reward_function", "reward_columns")
"""The keys that decide the labels; further people may judge at any time."""


def changed_key_problems(plan: RoundsPlan) -> list[Problem]:
    """Return a problem for each key that has changed since the first round that has samples or labels of it."""
    found: dict[str, Problem] = {}
    for number in range(1, plan.rounds.count + 1):
        folder = plan.root / f"round_{number}"
        sample = replace(plan.sample, seed=plan.sample.seed + number - 1)
        for file, config, keys in (
            (folder / "samples" / RESULT, sample, SAMPLE_KEYS),
            (folder / "labels" / LABEL_RESULTS, plan.label, JUDGE_KEYS),
        ):
            for key, before, now in differences(file, config, keys):
                remedy = (
                    f"{file.parent} was made with {without_empty(before)!r}: set it back, delete {folder} and the "
                    "rounds after it, or choose another output_dir"
                )
                found.setdefault(key, Problem(shown_key(plan, key), without_empty(now), remedy))
    return [*found.values()]


def differences(file: Path, config: object, keys: tuple[str, ...]) -> list[tuple[str, object, object]]:
    """Return (key, value before, value now) of the keys whose values differ from the settings in a file of results."""
    before = (read_json_mapping(file) or {}).get("settings")
    if not isinstance(before, dict):
        return []
    before, now = with_later_keys(before, type(config)), json.loads(json.dumps(settings_of(config)))
    return [(key, before.get(key), now[key]) for key in keys if before.get(key) != now[key]]


def shown_key(plan: RoundsPlan, key: str) -> str:
    """Return a key as in the YAML: one of the rounds, or one that they have from the RL stage."""
    if key == "prompts" and not plan.rounds.prompts:
        return f"{plan.policy}.datasets"
    return f"{plan.policy}.{key}" if key in INHERITED else f"rounds.{key}"


def without_empty(value: object) -> object:
    """Return a value for a message: entries of datasets have only the keys that are set."""
    if not isinstance(value, list):
        return value
    return [{key: own for key, own in one.items() if own} if isinstance(one, dict) else one for one in value]
