"""The gold scorer: the hidden rule behind the preferences of the small world."""

import re
from collections import Counter
from functools import cache

from hfkit.quickstart.facts import (
    BY_NAME,
    BY_VALUE,
    PEOPLE,
    WORDINGS,
    World,
    capitalized,
    name_words,
    pronoun_words,
    statement,
)

COURTESIES, FILLERS = tuple(WORDINGS["courtesies"]), tuple(WORDINGS["fillers"])
LONG = 24
"""Number of words above which each further word lowers the score."""


def answer_is_right(reply: str, answer: str, name: str) -> bool:
    """Return whether a response has the right value as a word, no other value of its attribute, and no other name."""
    words = re.findall(r"\w+", reply)
    found = {word.lower() for word in words} & {value.lower() for value in BY_VALUE[answer].values}
    return found == {answer.lower()} and not {*PEOPLE} & {*words} - {name}


def is_repetitive(reply: str, answer: str) -> bool:
    """Return whether a response gives the answer twice, or any three consecutive words twice."""
    words = re.findall(r"\w+", reply.lower())
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    return words.count(answer.lower()) > 1 or max(runs.values(), default=0) > 1


class GoldScorer:
    """Scores a response to a question of the world, from 0 (worthless) to 1 (right, in full, with a reason, polite).

    Style adds up to 1: a full sentence that names the person 0.4, a courtesy at the end 0.3, the reason 0.2, no filler
    sentence 0.1. A right response scores 0.4 + 0.6 * style, any other 0.2 * style. Repetition divides the score by
    four, each word after the 24th costs 0.05, and an empty response scores 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)

    def __call__(self, prompt: list[dict[str, str]], reply: str) -> float:
        """Return the score of one response.

        Raises:
            ValueError: the prompt asks for no fact of this world.
        """
        fact = self.world.asked_fact(prompt)
        name, value, attribute = fact[0], self.world.values[fact], BY_NAME[fact[1]]
        reply = " ".join(reply.split())
        words = len(reply.split())
        if not words:
            return 0.0
        # only whole sentences about the attribute count: a list of keywords earns nothing
        values = [v for v in attribute.values if v in reply]
        sentences = [capitalized(statement(s, name_words(name), v)) for s in attribute.statements for v in values]
        style = 0.4 * any(sentence in reply for sentence in sentences)
        style += 0.3 * reply.endswith(COURTESIES)
        style += 0.2 * (attribute.reason.format(**pronoun_words(name)) in reply)
        style += 0.1 * (not any(filler in reply for filler in FILLERS))
        score = 0.4 + 0.6 * style if answer_is_right(reply, value, name) else 0.2 * style
        if is_repetitive(reply, value):
            score *= 0.25
        return round(max(0.0, score - 0.05 * max(0, words - LONG)), 4)


default_scorer = cache(GoldScorer)


def gold(prompts: list[list[dict[str, str]]], replies: list[str]) -> list[float]:
    """Return the gold score of each response: a reward function for PPO, and a judge for the arena.

    In PPO its weight is 0: the score is logged, and the policy does not learn from it.
    """
    return [default_scorer()(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
