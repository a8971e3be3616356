"""Chooses the stages that lead to a goal, and the data of each, by the rows that they read and their start."""

from dataclasses import dataclass

from hfkit.commands.init.sources import SampledSource
from hfkit.config.fields import ROLES
from hfkit.config.registry import STAGES
from hfkit.core.errors import MISSING, ConfigError, Problem, nearest

START_KEY = ROLES["start"][0]
SamplesByStage = dict[str, list[SampledSource]]
"""Stage -> the sources that it can read."""


@dataclass(frozen=True)
class Chain:
    """The stages to run, in order, each with its sources; and notes on what was left out."""

    sources: SamplesByStage
    notes: list[str]


def goals() -> list[str]:
    """Return the stages that start from a model of an earlier stage."""
    return [name for name, spec in STAGES.items() if spec.starts_from_a_model]


def choose_goal(samples: SamplesByStage, has_functions: bool) -> str:
    """Return the last stage for which there is data; among stages that read the same rows, the first.

    Args:
        has_functions: whether reward functions are given.
    """
    by_form: dict[str | None, str] = {}
    for goal in goals():
        if not missing_data_remedy(goal, samples, has_functions):
            by_form.setdefault(STAGES[goal].form, goal)
    return [*by_form.values()][-1] if by_form else goals()[0]


def chain_to(goal: str, samples: SamplesByStage, has_functions: bool) -> Chain:
    """Return the stages that lead to a goal, with their sources.

    A stage without data is skipped: the next one then starts from the model itself.

    Raises:
        ConfigError: there is no such goal, or data for it are missing.
    """
    if problems := goal_problems(goal):
        raise ConfigError(problems)
    if remedy := missing_data_remedy(goal, samples, has_functions):
        raise ConfigError([Problem("--data", MISSING, remedy)])
    inputs = {stage: start_stages(stage) + scoring_stages(stage, has_functions) for stage in goals()}
    chosen = {goal}
    for stage in reversed(goals()):
        if stage in chosen:
            chosen |= {wanted for wanted in inputs[stage] if samples[wanted]}
    stages = [stage for stage in goals() if stage in chosen]
    skipped = [stage for one in stages for stage in inputs[one] if stage not in chosen]
    notes = [
        f"no {stage}: none of the data has {rows_in_words(stage)}; the next stage starts from the model itself"
        for stage in dict.fromkeys(skipped)
    ]
    return Chain({stage: sources_of(stage, stages, samples) for stage in stages}, notes)


def goal_problems(goal: str) -> list[Problem]:
    """Return the problem of an unknown goal."""
    if goal in goals():
        return []
    guess = nearest(goal, goals())
    return [Problem("--goal", goal, f"did you mean {guess}?" if guess else f"expected one of: {', '.join(goals())}")]


def start_stages(stage: str) -> list[str]:
    """Return the stages whose model a stage can start from; if they build on each other, the last one."""
    found = [wanted.stages[-1] for wanted in STAGES[stage].inputs if wanted.key == START_KEY]
    return [one for one in found if one in goals()]


def scoring_stages(stage: str, has_functions: bool) -> list[str]:
    """Return the stages whose model scores the responses of a stage; none with reward functions."""
    return [] if has_functions else [wanted.stages[-1] for wanted in STAGES[stage].inputs if wanted.key != START_KEY]


def missing_data_remedy(goal: str, samples: SamplesByStage, has_functions: bool) -> str | None:
    """Return what to add to the data for a goal, or None if nothing is missing."""
    missing = [stage for stage in (goal, *scoring_stages(goal, has_functions)) if not samples[stage]]
    if not missing:
        return None
    remedy = f"{' and '.join(missing)} can read none of the data: add a file of {rows_in_words(missing[0])}"
    return remedy + (", or name reward functions with --reward_functions" if missing != [goal] else "")


def rows_in_words(stage: str) -> str:
    """Return the form of a stage's rows in words."""
    names = {"instructions": "messages, or prompts with responses", "comparisons": "pairs or rankings of responses"}
    return names.get(STAGES[stage].form, STAGES[stage].form)


def sources_of(stage: str, stages: list[str], samples: SamplesByStage) -> list[SampledSource]:
    """Return the sources of one of several stages.

    Prompts may come from every stage's rows: rows that no other stage reads are preferred, else those of the stage
    before.
    """
    if STAGES[stage].form != "prompts":
        return samples[stage]
    others = [other for other in stages if other != stage]
    read = {one.name for other in others for one in samples[other]}
    if own := [one for one in samples[stage] if one.name not in read]:
        return own
    before = {one.name for one in samples[others[-1]]}
    return [one for one in samples[stage] if one.name in before]
