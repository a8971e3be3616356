"""The facts of the small world: its people, their attributes, and the wordings that state and ask for them."""

import random
from dataclasses import dataclass
from pathlib import Path

import yaml

WORDINGS = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8"))
PEOPLE: list[str] = WORDINGS["she"] + WORDINGS["he"]


@dataclass(frozen=True)
class Attribute:
    """One attribute that each person has, with all wordings that state it and ask for it."""

    name: str
    values: list[str]
    statements: list[str]
    questions: list[str]
    curt: str
    reason: str


BY_NAME = {attribute["name"]: Attribute(**attribute) for attribute in WORDINGS["attributes"]}
BY_VALUE = {value: attribute for attribute in BY_NAME.values() for value in attribute.values}

Fact = tuple[str, str]
"""A person's name and an attribute's name; `World.values` has the true value."""


def capitalized(text: str) -> str:
    """Return the text with its first letter in upper case and the rest unchanged, unlike `str.capitalize`."""
    return text[:1].upper() + text[1:]


def pronoun_words(name: str) -> dict[str, str]:
    """Return the words for `{who}` and `{whose}` if the text has named the person already."""
    return {"who": "she", "whose": "her"} if name in WORDINGS["she"] else {"who": "he", "whose": "his"}


def name_words(name: str) -> dict[str, str]:
    """Return the words for `{who}` and `{whose}` that name the person."""
    return {"who": name, "whose": f"{name}'s"}


def statement(template: str, words: dict[str, str], value: str) -> str:
    """Return a statement without a full stop; its first letter is not capitalized."""
    article = "an" if value[0] in "aeiou" else "a"
    return template.format(v=value, a=f"{article} {value}", **words)


class World:
    """All facts of one seed, and what is held out from training.

    `held_questions` has, for each fact, three of its eight question wordings; for one fact in ten it has all of them,
    so that only the documents state the fact. `held_statement` has for each fact the one wording that the training
    documents never use for it.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(f"facts {seed}")
        self.people = PEOPLE
        self.values: dict[Fact, str] = {}
        for attribute in BY_NAME.values():
            # each value is true of equally many people, so no value is a good guess
            copies = -(-len(self.people) // len(attribute.values))
            values = attribute.values * copies
            rng.shuffle(values)
            for name, value in zip(self.people, values, strict=False):
                self.values[name, attribute.name] = value
        self.facts = list(self.values)
        self.held_statement = {fact: rng.randrange(6) for fact in self.facts}
        self.held_questions: dict[Fact, tuple[int, ...]] = {}
        for fact in self.facts:
            self.held_questions[fact] = tuple(range(8) if rng.random() < 0.1 else rng.sample(range(8), 3))
        self._fact_of_question: dict[str, tuple[str | None, str]] = {}
        for name, attribute in self.facts:
            for wording in range(8):
                fact = (name, attribute)
                self._fact_of_question[self.question(fact, wording)] = fact
                self._fact_of_question[self.question(fact, wording, follow_up=True)] = (None, attribute)

    def question(self, fact: Fact, wording: int, follow_up: bool = False) -> str:
        """Return the question for a fact: by name, or by pronoun after another question about the same person."""
        name, attribute = fact
        template = BY_NAME[attribute].questions[wording]
        if not follow_up:
            return template.format(**name_words(name))
        return "And " + (template[0].lower() + template[1:]).format(**pronoun_words(name))

    def asked_fact(self, prompt: list[dict[str, str]]) -> Fact:
        """Return the fact that the last question of a conversation asks for.

        Raises:
            ValueError: a user message is not a question of this world, or a pronoun has no name before it.
        """
        person, attribute = None, None
        for message in prompt:
            if message["role"] == "user":
                if message["content"] not in self._fact_of_question:
                    raise ValueError(f"not a question of this world: {message['content']!r}")
                name, attribute = self._fact_of_question[message["content"]]
                person = name or person
        if person is None or attribute is None:
            raise ValueError("the conversation names no person")
        return person, attribute
