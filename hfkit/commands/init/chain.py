"""Chooses the stages that lead to a goal, and the data of each: by what they read and what they start from."""

from dataclasses import dataclass

from hfkit.commands.init.sources import SampledSource
from hfkit.config.fields import ROLES
from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, ConfigError, Problem, nearest

START_KEY = ROLES["start"][0]
SamplesByStage = dict[str, list[SampledSource]]
"""The sources that each stage can read."""


@dataclass(frozen=True)
class Chain:
    """The stages to run, in order, each with its sources; and notes on what was left out."""

    sources: SamplesByStage
    notes: list[str]


def goals() -> list[str]:
    """Return the stages that start from a model which an earlier stage makes."""
    return [name for name, spec in STAGES.items() if any(wanted.key == START_KEY for wanted in spec.inputs)]


def choose_goal(readings: SamplesByStage, scores: bool) -> str:
    """Return the last stage for which there are data.

    Args:
        scores: whether reward functions are given.
    """
    possible = [goal for goal in goals() if not lacking(goal, readings, scores)]
    return possible[-1] if possible else goals()[0]


def chain_to(goal: str, readings: SamplesByStage, scores: bool) -> Chain:
    """Return the stages that lead to a goal, with their sources.

    A stage without data is left out: the next one then starts from the model itself.

    Raises:
        ConfigError: there is no such goal, or data for it are missing.
    """
    if goal not in goals():
        guess = nearest(goal, goals())
        remedy = f"did you mean {guess}?" if guess else f"expected one of: {', '.join(goals())}"
        raise ConfigError([Problem("--goal", goal, remedy)])
    if remedy := lacking(goal, readings, scores):
        raise ConfigError([Problem("--data", MISSING, remedy)])
    chosen = {goal}
    for stage in reversed(goals()):
        if stage in chosen:
            chosen |= {wanted for wanted in inputs_of(stage, scores) if readings[wanted]}
    stages = [stage for stage in goals() if stage in chosen]
    skipped = [stage for one in stages for stage in inputs_of(one, scores) if stage not in chosen]
    notes = [
        f"no {stage}: none of the data has {rows_in_words(stage)}; the next stage starts from the model itself"
        for stage in dict.fromkeys(skipped)
    ]
    return Chain({stage: sources_of(stage, stages, readings) for stage in stages}, notes)


def inputs_of(stage: str, scores: bool) -> list[str]:
    """Return the stages that a stage can start from; with reward functions no others."""
    found = [wanted for wanted in STAGES[stage].inputs if wanted.stage in goals()]
    return [wanted.stage for wanted in found if wanted.key == START_KEY or not scores]


def lacking(goal: str, readings: SamplesByStage, scores: bool) -> str | None:
    """Return what to add to the data for a goal, or None if nothing is missing."""
    needed = [goal]
    if not scores:
        needed += [wanted.stage for wanted in STAGES[goal].inputs if wanted.key != START_KEY]
    missing = [stage for stage in needed if not readings[stage]]
    if not missing:
        return None
    remedy = f"{' and '.join(missing)} can read none of the data: add a file of {rows_in_words(missing[0])}"
    return remedy + (", or name reward functions with --reward_functions" if missing != [goal] else "")


def rows_in_words(stage: str) -> str:
    """Return the form of a stage's rows, in the words of users."""
    names = {"instructions": "messages, or prompts with responses", "comparisons": "pairs or rankings of responses"}
    return names.get(STAGES[stage].form, STAGES[stage].form)


def sources_of(stage: str, stages: list[str], readings: SamplesByStage) -> list[SampledSource]:
    """Return the sources of one of several stages.

    Every stage's rows have prompts: those are taken which no other stage reads, else those of the stage before.
    """
    if STAGES[stage].form != "prompts":
        return readings[stage]
    others = [other for other in stages if other != stage]
    read = {one.name for other in others for one in readings[other]}
    if own := [one for one in readings[stage] if one.name not in read]:
        return own
    before = {one.name for one in readings[others[-1]]}
    return [one for one in readings[stage] if one.name in before]
