"""The gold scorer: the hidden rule that people's preferences in the small world follow."""

import re
from collections import Counter
from functools import cache

from hfkit.quickstart.facts import (
    ATTRIBUTE_OF_VALUE,
    BY_NAME,
    HE,
    SHE,
    World,
    capitalize_first,
    name_words,
    pronoun_words,
    statement,
)

COURTESIES = ("I hope that helps.", "Happy to help!", "Just ask if you need more.")
FILLERS = (
    "Well, let me think about that for a moment.",
    "That is a good question, and I am glad you asked it.",
    "As far as I know, and I know a lot, it is like this.",
)
LONG = 24
"""Words that a reply may have before each further word costs."""


def answer_is_right(reply: str, answer: str, name: str) -> bool:
    """Whether a reply has the right value as a whole word, no other value of that attribute, and nobody else's name."""
    words = re.findall(r"\w+", reply)
    found = {word.lower() for word in words} & {value.lower() for value in ATTRIBUTE_OF_VALUE[answer].values}
    return found == {answer.lower()} and not {*SHE, *HE} & {*words} - {name}


def is_repetitive(reply: str, answer: str) -> bool:
    """Whether a reply gives the answer twice, or any three words in a row."""
    words = re.findall(r"\w+", reply.lower())
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    return words.count(answer.lower()) > 1 or max(runs.values(), default=0) > 1


class GoldScorer:
    """Scores a reply to a question of the world, from 0 (worthless) to 1 (right, full, reasoned and polite).

    Style adds up to 1: a full sentence that names the person 0.4, a courtesy at the very end 0.3, the reason
    0.2, no empty talk 0.1. A right reply scores 0.4 + 0.6 * style, any other 0.2 * style. Repetition leaves a
    quarter of it, each word past the 24th takes 0.05, and an empty reply scores 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)

    def __call__(self, prompt: list[dict[str, str]], reply: str) -> float:
        """The score of one reply.

        Raises:
            ValueError: The prompt asks nothing that this world knows.
        """
        fact = self.world.asked(prompt)
        name, value, attribute = fact[0], self.world.values[fact], BY_NAME[fact[1]]
        reply = " ".join(reply.split())
        words = len(reply.split())
        if not words:
            return 0.0
        # Only sentences of the attribute itself count as full: a list of keywords earns nothing.
        values = [v for v in attribute.values if v in reply]
        said = [capitalize_first(statement(s, name_words(name), v)) for s in attribute.statements for v in values]
        style = 0.4 * any(sentence in reply for sentence in said)
        style += 0.3 * reply.endswith(COURTESIES)
        style += 0.2 * (attribute.reason.format(**pronoun_words(name)) in reply)
        style += 0.1 * (not any(filler in reply for filler in FILLERS))
        score = 0.4 + 0.6 * style if answer_is_right(reply, value, name) else 0.2 * style
        if is_repetitive(reply, value):
            score *= 0.25
        return round(max(0.0, score - 0.05 * max(0, words - LONG)), 4)


@cache
def default_scorer() -> GoldScorer:
    """The scorer of the quickstart's own world."""
    return GoldScorer()


def gold(prompts: list[list[dict[str, str]]], replies: list[str]) -> list[float]:
    """The gold score of each reply, as reward functions and judges give it.

    In PPO its weight is 0: it is logged, and nothing is learnt from it.
    """
    return [default_scorer()(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
