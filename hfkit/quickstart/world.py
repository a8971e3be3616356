"""The data of the quickstart's small world: documents, conversations, rankings and questions, from one seed.

Twenty-four people have four attributes each. Documents state these 96 facts in varied wordings and never ask;
conversations ask for them. A held-out question is a combination of fact and wording that no training conversation has,
and no training conversation asks for one fact in ten at all: its answer is only in the documents.
"""

import random
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

from hfkit.core.files import write_json_lines
from hfkit.quickstart.facts import BY_NAME, WORDINGS, Fact, capitalized, name_words, pronoun_words, statement
from hfkit.quickstart.gold import COURTESIES, FILLERS, GoldScorer

DOCUMENT_COUNT, DOCUMENTS_TEST = 16_000, 300
INSTRUCTION_COUNT, INSTRUCTIONS_TEST = 10_000, 300
RANKINGS, RANKINGS_TEST = 2400, 400
PROMPT_COUNT, QUESTIONS_TEST = 2000, 300
NOISE = 0.1
TIE = 0.1
"""Pairs with a smaller difference of gold scores are ties and are left out."""
ANSWER_WORDINGS = 3
"""Statements of an attribute that responses use; documents use all of them."""

Message = dict[str, str]


def write_world(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write every file of a seed's world as JSON lines, the same bytes each time; return each file's number of rows."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = WorldWriter(seed).files()
    for name, rows in files.items():
        write_json_lines(folder / name, rows)
    return {name: len(rows) for name, rows in files.items()}


class WorldWriter:
    """Draws rows; every file has its own random stream, so that the size of one does not change another."""

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
        """Return the rows of every file, by its name."""
        files = {
            "documents.jsonl": self._draw(DOCUMENT_COUNT, lambda: {"text": self.document(held=False)}),
            "documents_test.jsonl": self._draw(DOCUMENTS_TEST, lambda: {"text": self.document(held=True)}),
            "instructions.jsonl": self._draw(INSTRUCTION_COUNT, lambda: self.instruction(held=False)),
            "instructions_test.jsonl": self._draw(INSTRUCTIONS_TEST, lambda: self.instruction(held=True)),
            "rankings.jsonl": self._draw(RANKINGS, lambda: self.ranking(held=False)),
            "prompts.jsonl": self._draw(PROMPT_COUNT, lambda: {"prompt": self.prompt(*self.pick(held=False))}),
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
        """Return a statement of a fact; its held-out wording is for test documents only."""
        skip = self.world.held_statement[fact]
        wording = skip if held else self.rng.choice([i for i in range(6) if i != skip])
        return statement(BY_NAME[fact[1]].statements[wording], words, self.world.values[fact])

    def document(self, held: bool) -> str:
        """Return one to three paragraphs, each about different people.

        The subject changes after a line break, so a model that only continues documents does not stay with the person
        that a question names, and answers correctly only by chance.
        """
        people = iter(self.rng.sample(self.world.people, 6))
        kinds = (self.portrait, self.comparison, self.talk)
        kinds = self.rng.choices(kinds, (7, 1, 2), k=self.rng.choice((1, 2, 2, 3)))
        return "\n".join(kind(next(people), next(people), held) for kind in kinds)

    def portrait(self, name: str, _: str, held: bool) -> str:
        """Return two to four facts about one person."""
        text = ""
        for i, attribute in enumerate(self.attributes(self.rng.randint(2, 4))):
            words = name_words(name) if i == 0 or self.rng.random() < 0.6 else pronoun_words(name)
            clause = self.sentence((name, attribute), words, held) + self.reason_clause(name, attribute, 0.15)
            text += f", and {clause}" if i % 2 and self.rng.random() < 0.3 else f". {capitalized(clause)}"
        return text.removeprefix(". ") + "."

    def comparison(self, name: str, other: str, held: bool) -> str:
        """Return a comparison of two people."""
        text = ""
        for attribute in self.attributes(2):
            first, second = (self.sentence((n, attribute), name_words(n), held) for n in (name, other))
            text += f" {capitalized(first)}, while {second}."
        return text.strip()

    def talk(self, name: str, other: str, held: bool) -> str:
        """Return a talk about a person in the style of responses, so that responses consist of known words."""
        text = self.rng.choice(WORDINGS["introductions"]).format(name=name, other=other)
        for attribute in self.attributes(2):
            words = self.rng.choice((name_words(name), pronoun_words(name)))
            sentence = capitalized(self.sentence((name, attribute), words, held))
            sentence += self.reason_clause(name, attribute, 0.35)
            text += f' "{self.with_small_talk(sentence + ".")}"'
        return text

    def attributes(self, count: int) -> list[str]:
        """Return the names of `count` different attributes."""
        return self.rng.sample(list(BY_NAME), count)

    def reason_clause(self, name: str, attribute: str, share: float) -> str:
        """Return the reason after a statement in that share of cases, else an empty text."""
        return " " + BY_NAME[attribute].reason.format(**pronoun_words(name)) if self.rng.random() < share else ""

    # Conversations

    def pick(self, held: bool) -> tuple[Fact, int]:
        """Return a question: its fact and its wording."""
        return self.rng.choice(self.questions[held])

    def prompt(self, fact: Fact, wording: int) -> list[Message]:
        """Return a conversation up to a question: alone, or by pronoun after another one about the same person."""
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
        """Return a whole conversation; all its answers are right, in any style."""
        fact, wording = self.pick(held)
        messages = [*self.prompt(fact, wording), {"role": "assistant", "content": self.reply(fact)}]
        return {"messages": messages}

    def reply(self, fact: Fact, value: str | None = None) -> str:
        """Return a response in a random style, with the right value unless another is given."""
        name, attribute = fact[0], BY_NAME[fact[1]]
        rng = self.rng
        value = value or self.world.values[fact]
        form = rng.choices(("name", "pronoun", "curt"), (5, 2, 3))[0]
        if form == "curt":
            core = capitalized(statement(attribute.curt, {}, value))
        else:
            words = name_words(name) if form == "name" else pronoun_words(name)
            core = capitalized(statement(rng.choice(attribute.statements[:ANSWER_WORDINGS]), words, value))
        text = core + self.reason_clause(name, attribute.name, 0.35) + "."
        if rng.random() < 0.1:
            text += f" {core}, as I said."
        return self.with_small_talk(text)

    def with_small_talk(self, text: str) -> str:
        """Return the text, sometimes after a filler sentence and sometimes with a courtesy at its end."""
        before = f"{self.rng.choice(FILLERS)} " if self.rng.random() < 0.35 else ""
        after = f" {self.rng.choice(COURTESIES)}" if self.rng.random() < 0.35 else ""
        return before + text + after

    # Preferences

    def ranking(self, held: bool) -> dict:
        """Return four different responses to one prompt with their gold scores, best first."""
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
        """Return a "right", "wrong" or "bad" response; bad is empty, repetitive, too long, or about something else."""
        rng = self.rng
        if kind == "right":
            return self.reply(fact)
        if kind == "wrong":
            others = [v for v in BY_NAME[fact[1]].values if v != self.world.values[fact]]
            return self.reply(fact, rng.choice(others))
        name = fact[0]
        again = self.reply(fact)
        off_topic = self.reply((name, rng.choice([a for a in BY_NAME if a != fact[1]])))
        other = rng.choice([n for n in self.world.people if n != name])
        statement_on_other = capitalized(self.sentence((other, fact[1]), name_words(other), held=False))
        stranger = self.with_small_talk(f"{statement_on_other}.")
        endless = " ".join([again] + [self.reply((name, a)) for a in self.attributes(2)])
        repeated = f"{again} {again} {again}"
        return rng.choice(("", repeated, repeated, endless, endless, off_topic, stranger, "I do not know."))

    def pairs(self, ranking: dict) -> Iterator[dict]:
        """Yield all pairs of a ranking except ties; a tenth of the labels is flipped."""
        ranked = zip(ranking["replies"], ranking["scores"], strict=True)
        for (better, high), (worse, low) in combinations(ranked, 2):
            if high - low < TIE:
                continue
            clean = self.rng.random() >= NOISE
            chosen, rejected = (better, worse) if clean else (worse, better)
            yield {"prompt": ranking["prompt"], "chosen": chosen, "rejected": rejected, "clean": clean}
