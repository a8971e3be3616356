"""Writes the small world of the quickstart: documents, conversations, rankings and questions, from one seed.

Twenty-four people have four attributes each. Documents state these 96 facts in varied wordings and never ask;
conversations ask them. A held-out question is a combination of fact and wording that no training
conversation has, and one fact in ten is asked in no training conversation at all: its answer is only in the
documents, as every fact is.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

from hfkit.quickstart.facts import BY_NAME, Fact, World, capitalize_first, name_words, pronoun_words, statement
from hfkit.quickstart.gold import COURTESIES, FILLERS, GoldScorer, answer_is_right

__all__ = ["GoldScorer", "World", "answer_is_right", "write_world"]

DOCUMENTS, DOCUMENTS_TEST = 16_000, 300
INSTRUCTIONS, INSTRUCTIONS_TEST = 10_000, 300
RANKINGS, RANKINGS_TEST = 2400, 400
PROMPTS, QUESTIONS_TEST = 2000, 300
NOISE = 0.1
TIE = 0.1
"""Pairs whose gold scores are closer are ties: no judge tells such replies apart."""
ANSWER_WORDINGS = 3
"""Statements of an attribute that replies use; documents use all of them."""

INTRODUCTIONS = (
    "{other} knows {name} well.",
    "What {other} can tell of {name} is this.",
    "Which kind of person {name} is, {other} does know.",
    "Where {name} goes, {other} goes too.",
    "How {other} came to know {name} is long ago.",
    "Please tell me of {name}, {other} was asked.",
    "Can you tell me of {name}, {other} was asked.",
    "Do you know {name}, {other} was asked.",
)
"""Openings of talks; they have the words that questions begin with, but ask for no fact."""

Message = dict[str, str]


def write_world(folder: Path, seed: int = 0) -> dict[str, int]:
    """Writes every file of the world of a seed as JSON lines; the same seed gives the same bytes.

    Returns:
        The number of rows of each file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(seed)
    return {name: _write(folder / name, rows) for name, rows in writer.files().items()}


def _write(path: Path, rows: list[dict]) -> int:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.write_text(lines, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
    return len(rows)


class _Writer:
    """Draws rows; every file has a random stream of its own, so that the size of one changes no other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.gold = GoldScorer(seed)
        self.world = self.gold.world
        self.rng = random.Random()
        self.streams = 0
        self.questions: dict[bool, list[tuple[Fact, int]]] = {False: [], True: []}
        self.first_questions: dict[str, list[tuple[Fact, int]]] = {name: [] for name in self.world.people}
        for fact in self.world.facts:
            for wording in range(8):
                held = wording in self.world.held_questions[fact]
                self.questions[held].append((fact, wording))
                if not held:
                    self.first_questions[fact[0]].append((fact, wording))

    def files(self) -> dict[str, list[dict]]:
        """The rows of every file, by its name."""
        files = {
            "documents.jsonl": self._draw(DOCUMENTS, lambda: {"text": self.document(held=False)}),
            "documents_test.jsonl": self._draw(DOCUMENTS_TEST, lambda: {"text": self.document(held=True)}),
            "instructions.jsonl": self._draw(INSTRUCTIONS, lambda: self.instruction(held=False)),
            "instructions_test.jsonl": self._draw(INSTRUCTIONS_TEST, lambda: self.instruction(held=True)),
            "rankings.jsonl": self._draw(RANKINGS, lambda: self.ranking(held=False)),
            "prompts.jsonl": self._draw(PROMPTS, lambda: {"prompt": self.prompt(*self.pick(held=False))}),
        }
        self._restart()
        files["preferences.jsonl"] = [pair for row in files["rankings.jsonl"] for pair in self.pairs(row)]
        for pair in files["preferences.jsonl"]:
            del pair["clean"]
        held_rankings = self._draw(RANKINGS_TEST, lambda: self.ranking(held=True))
        files["preferences_test.jsonl"] = [pair for row in held_rankings for pair in self.pairs(row)]
        self._restart()
        files["questions_test.jsonl"] = [
            {
                "prompt": self.prompt(fact, wording),
                "answer": self.world.values[fact],
                "attribute": fact[1],
                "name": fact[0],
            }
            for fact, wording in self.rng.sample(self.questions[True], QUESTIONS_TEST)
        ]
        return files

    def _restart(self) -> None:
        self.streams += 1
        self.rng.seed(f"world {self.seed} stream {self.streams}")

    def _draw(self, rows: int, make: Callable[[], dict]) -> list[dict]:
        self._restart()
        return [make() for _ in range(rows)]

    # Documents

    def sentence(self, fact: Fact, words: dict[str, str], held: bool) -> str:
        """A statement of a fact; the wording held out for it is for the test documents alone."""
        skip = self.world.held_statement[fact]
        wording = skip if held else self.rng.choice([i for i in range(6) if i != skip])
        return statement(BY_NAME[fact[1]].statements[wording], words, self.world.values[fact])

    def document(self, held: bool) -> str:
        """One to three paragraphs, each on other people than the one before.

        After a line break the subject changes: a model that only continues documents does not go on about the
        person that a question names, so it answers by chance at most.
        """
        people = iter(self.rng.sample(self.world.people, 6))
        kinds = (self.portrait, self.comparison, self.talk)
        kinds = self.rng.choices(kinds, (7, 1, 2), k=self.rng.choice((1, 2, 2, 3)))
        return "\n".join(kind(next(people), next(people), held) for kind in kinds)

    def portrait(self, name: str, _: str, held: bool) -> str:
        """Two to four facts of one person."""
        text = ""
        for i, attribute in enumerate(self.attributes(self.rng.randint(2, 4))):
            words = name_words(name) if i == 0 or self.rng.random() < 0.6 else pronoun_words(name)
            said = self.sentence((name, attribute), words, held) + self.because(name, attribute, 0.15)
            text += f", and {said}" if i % 2 and self.rng.random() < 0.3 else f". {capitalize_first(said)}"
        return text.removeprefix(". ") + "."

    def comparison(self, name: str, other: str, held: bool) -> str:
        """Two people side by side."""
        text = ""
        for attribute in self.attributes(2):
            said, against = (self.sentence((n, attribute), name_words(n), held) for n in (name, other))
            text += f" {capitalize_first(said)}, while {against}."
        return text.strip()

    def talk(self, name: str, other: str, held: bool) -> str:
        """Somebody tells of a person, in the manner of replies, so that replies are made of known words."""
        text = self.rng.choice(INTRODUCTIONS).format(name=name, other=other)
        for attribute in self.attributes(2):
            words = self.rng.choice((name_words(name), pronoun_words(name)))
            said = self.sentence((name, attribute), words, held)
            said = capitalize_first(said) + self.because(name, attribute, 0.35)
            text += f' "{self.dressed(said + ".")}"'
        return text

    def attributes(self, count: int) -> list[str]:
        """The names of some different attributes."""
        return self.rng.sample(list(BY_NAME), count)

    def because(self, name: str, attribute: str, share: float) -> str:
        """The reason after a statement, in that share of cases."""
        return " " + BY_NAME[attribute].reason.format(**pronoun_words(name)) if self.rng.random() < share else ""

    # Conversations

    def pick(self, held: bool) -> tuple[Fact, int]:
        """A question, as its fact and its wording."""
        return self.rng.choice(self.questions[held])

    def prompt(self, fact: Fact, wording: int) -> list[Message]:
        """A conversation up to a question: alone, or asked by pronoun after another about the same person."""
        before = [(f, w) for f, w in self.first_questions[fact[0]] if f != fact]
        if not before or self.rng.random() < 0.65:
            return [{"role": "user", "content": self.world.question(fact, wording)}]
        first, first_wording = self.rng.choice(before)
        return [
            {"role": "user", "content": self.world.question(first, first_wording)},
            {"role": "assistant", "content": self.reply(first)},
            {"role": "user", "content": self.world.question(fact, wording, follow_up=True)},
        ]

    def instruction(self, held: bool) -> dict:
        """A whole conversation of one or more turns; all its answers are right, in every style."""
        fact, wording = self.pick(held)
        messages = [*self.prompt(fact, wording), {"role": "assistant", "content": self.reply(fact)}]
        return {"messages": messages}

    def reply(self, fact: Fact, value: str | None = None) -> str:
        """A reply in a style by chance, with the right value unless another is given."""
        name, attribute = fact[0], BY_NAME[fact[1]]
        rng = self.rng
        value = value or self.world.values[fact]
        form = rng.choices(("name", "pronoun", "curt"), (5, 2, 3))[0]
        if form == "curt":
            core = capitalize_first(statement(attribute.curt, {}, value))
        else:
            words = name_words(name) if form == "name" else pronoun_words(name)
            core = capitalize_first(statement(rng.choice(attribute.statements[:ANSWER_WORDINGS]), words, value))
        said = core + self.because(name, attribute.name, 0.35) + "."
        if rng.random() < 0.1:
            said += f" {core}, as I said."
        return self.dressed(said)

    def dressed(self, said: str) -> str:
        """What somebody says, at times after empty talk and at times with a courtesy at its end."""
        before = f"{self.rng.choice(FILLERS)} " if self.rng.random() < 0.35 else ""
        after = f" {self.rng.choice(COURTESIES)}" if self.rng.random() < 0.35 else ""
        return before + said + after

    # Preferences

    def ranking(self, held: bool) -> dict:
        """Four different replies to one prompt with their gold scores, best first."""
        fact, wording = self.pick(held)
        prompt = self.prompt(fact, wording)
        replies: list[str] = []
        last = self.rng.choices(("right", "wrong", "bad"), (6, 1, 3))[0]
        kinds = ["right", "right", "bad", last]
        while kinds:
            reply = self.candidate(fact, kinds[0])
            if reply not in replies:
                replies.append(reply)
                kinds.pop(0)
        scored = sorted(((self.gold(prompt, reply), reply) for reply in replies), reverse=True)
        return {"prompt": prompt, "replies": [r for _, r in scored], "scores": [s for s, _ in scored]}

    def candidate(self, fact: Fact, kind: str) -> str:
        """A reply that is "right", "wrong" or "bad": empty, repeated, endless, of something or somebody else."""
        rng = self.rng
        if kind == "right":
            return self.reply(fact)
        if kind == "wrong":
            others = [v for v in BY_NAME[fact[1]].values if v != self.world.values[fact]]
            return self.reply(fact, rng.choice(others))
        name = fact[0]
        again = self.reply(fact)
        beside = self.reply((name, rng.choice([a for a in BY_NAME if a != fact[1]])))
        other = rng.choice([n for n in self.world.people if n != name])
        stranger = self.dressed(capitalize_first(self.sentence((other, fact[1]), name_words(other), held=False)) + ".")
        endless = " ".join([again] + [self.reply((name, a)) for a in self.attributes(2)])
        repeated = f"{again} {again} {again}"
        unknown = "I do not know."
        return rng.choice(("", repeated, repeated, endless, endless, beside, stranger, unknown))

    def pairs(self, ranking: dict) -> Iterator[dict]:
        """All pairs of a ranking but the ties; a tenth of the labels is flipped."""
        ranked = zip(ranking["replies"], ranking["scores"], strict=True)
        for (better, high), (worse, low) in combinations(ranked, 2):
            if high - low < TIE:
                continue
            clean = self.rng.random() >= NOISE
            chosen, rejected = (better, worse) if clean else (worse, better)
            yield {"prompt": ranking["prompt"], "chosen": chosen, "rejected": rejected, "clean": clean}
