"""The facts of the small world: its people, what is true of them, and the wordings that state and ask it."""

import random
from dataclasses import dataclass


def _of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SHE = _of("""
    Ada Clara Daisy Edith Flora Grace Hanna Irene Laura Mira Nora Olga
""")
HE = _of("""
    Alan Bruno Carl David Edgar Felix George Hugo Ivan Kevin Oscar Simon
""")

PEOPLE = SHE + HE


@dataclass(frozen=True)
class Attribute:
    """One thing that is true of each person, with every wording in which the world states and asks it.

    Wordings are format strings: `{who}` and `{whose}` are the person's name or pronoun, `{v}` is the value
    and `{a}` the value with its article. No value belongs to two attributes.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    curt: str
    reason: str


ATTRIBUTES = (
    Attribute(
        "city",
        _of("Oslo Paris Rome Lima Cairo Delhi Tokyo Berlin Lisbon Vienna Dublin Prague"),
        (
            "{who} lives in {v}",
            "{whose} home is in {v}",
            "{who} is at home in {v}",
            "{who} has a small flat in {v}",
            "the city where {who} lives is {v}",
            "{who} moved to {v} some years ago",
        ),
        (
            "Where does {who} live?",
            "In which city does {who} live?",
            "What is {whose} home city?",
            "Which city does {who} call home?",
            "Where is {whose} home?",
            "Can you tell me where {who} lives?",
            "Do you know the city where {who} lives?",
            "Please tell me where {whose} home is.",
        ),
        "in {v}",
        "because {whose} family is there",
    ),
    Attribute(
        "job",
        _of("teacher baker doctor farmer pilot painter lawyer tailor nurse actor dentist sailor"),
        (
            "{who} works as {a}",
            "{whose} job is to be {a}",
            "{who} earns a living as {a}",
            "{who} has been {a} for years",
            "the job that {who} has is that of {a}",
            "{whose} working day is that of {a}",
        ),
        (
            "What does {who} do for a living?",
            "What is {whose} job?",
            "What work does {who} do?",
            "Which job does {who} have?",
            "How does {who} earn a living?",
            "Can you tell me what {whose} job is?",
            "Do you know what {who} works as?",
            "Please tell me the job that {who} has.",
        ),
        "as {a}",
        "because {who} loves the work",
    ),
    Attribute(
        "pet",
        _of("dog cat parrot rabbit turtle hamster goat lizard owl duck snake mouse"),
        (
            "{who} keeps {a}",
            "{whose} pet is {a}",
            "{who} has {a} as a pet",
            "{who} looks after {a}",
            "the pet that {who} keeps is {a}",
            "{whose} house is shared with {a}",
        ),
        (
            "What pet does {who} keep?",
            "What is {whose} pet?",
            "Which pet does {who} have?",
            "What kind of pet does {who} own?",
            "Which animal does {who} look after?",
            "Can you tell me what {whose} pet is?",
            "Do you know which pet {who} keeps?",
            "Please tell me the pet that {who} has.",
        ),
        "{a}",
        "because {who} likes the company",
    ),
    Attribute(
        "instrument",
        _of("piano violin cello flute guitar trumpet harp banjo organ oboe tuba clarinet"),
        (
            "{who} plays the {v}",
            "{whose} instrument is the {v}",
            "{who} makes music on the {v}",
            "{who} takes lessons on the {v}",
            "the instrument that {who} plays is the {v}",
            "{whose} evenings are spent with the {v}",
        ),
        (
            "What instrument does {who} play?",
            "What is {whose} instrument?",
            "Which instrument does {who} play?",
            "What does {who} make music on?",
            "Which instrument is {whose} choice?",
            "Can you tell me what instrument {who} plays?",
            "Do you know which instrument is played by {who}?",
            "Please tell me what {whose} instrument is.",
        ),
        "the {v}",
        "because {who} learned it at school",
    ),
)
BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
BY_VALUE = {value: attribute for attribute in ATTRIBUTES for value in attribute.values}

Fact = tuple[str, str]
"""A person's name and an attribute's name; `World.values` has the true value."""


def pronoun_words(name: str) -> dict[str, str]:
    """Return the words for `{who}` and `{whose}` where a text has named the person already."""
    return {"who": "she", "whose": "her"} if name in SHE else {"who": "he", "whose": "his"}


def name_words(name: str) -> dict[str, str]:
    """Return the words for `{who}` and `{whose}` that name the person."""
    return {"who": name, "whose": f"{name}'s"}


def with_article(value: str) -> str:
    """Return the value after "a" or "an"."""
    return f"{'an' if value[0] in 'aeiou' else 'a'} {value}"


def statement(template: str, words: dict[str, str], value: str) -> str:
    """Return a statement without a full stop; its first letter is not capitalized."""
    return template.format(v=value, a=with_article(value), **words)


def capitalized(text: str) -> str:
    """Return the text with its first letter in upper case; the other letters stay as they are."""
    return text[:1].upper() + text[1:]


class World:
    """Everything that is true for one seed, and what is held out from training.

    `held_questions` has, for each fact, three of its eight question wordings; for one fact in ten it has all of them,
    so that only the documents state the fact. `held_statement` has for each fact the one wording that the training
    documents never use for it.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(f"facts {seed}")
        self.people = PEOPLE
        self.values: dict[Fact, str] = {}
        for attribute in ATTRIBUTES:
            # each value is true of equally many people, so no value is a good guess
            copies = -(-len(self.people) // len(attribute.values))
            values = list(attribute.values) * copies
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
            raise ValueError("the conversation asks about nobody")
        return person, attribute
