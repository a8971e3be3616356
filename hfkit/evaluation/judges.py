"""Who says which of two replies is better: a reward, a language model that is asked, or a person."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hfkit.core.console import printable
from hfkit.core.errors import HfkitError
from hfkit.core.files import hash_of
from hfkit.core.progress import progress
from hfkit.data.messages import Messages, as_messages
from hfkit.evaluation.lines import Lines
from hfkit.evaluation.replies import Subject
from hfkit.models.generation import likelihoods

QUESTION = """Here are a conversation and two replies to it. Which reply is better?

{prompt}

Reply A:
{first}

Reply B:
{second}

Answer with the letter of the better reply, A or B, and nothing else."""


@dataclass(frozen=True)
class Match:
    """Two different replies to one prompt, by their text."""

    prompt: str | Messages
    a: str
    b: str
    columns: dict


@dataclass(frozen=True)
class Verdict:
    """1 if reply `a` is better, 0 if `b` is, 0.5 for a tie.

    Args:
        firsts: of each look at the two, one above the other: 1 if the reply shown first won, 0 or 0.5; () for a judge
            that reads one reply at a time.
    """

    result: float
    firsts: tuple[float, ...] = ()


Judge = Callable[[Sequence[Match]], list[Verdict]]


def by_score(score: Callable[[list, list[str], list[dict]], Sequence[float]]) -> Judge:
    """A judge that scores each reply by itself: the higher score wins.

    Args:
        score: (prompts, replies, columns) -> a number each.
    """

    def judge(matches: Sequence[Match]) -> list[Verdict]:
        sides = [[m.a for m in matches], [m.b for m in matches]]
        prompts, columns = [m.prompt for m in matches], [m.columns for m in matches]
        a, b = (np.asarray(score(prompts, side, columns), dtype=float) for side in sides)
        return [Verdict(float(result)) for result in (1 + np.sign(a - b)) / 2]

    return judge


def by_model(subject: Subject, kept: Lines, batch_size: int) -> Judge:
    """A judge that is asked for the letter of the better reply, in both orders (arXiv 2306.05685).

    The letter that it finds likelier is its answer; where it contradicts itself, it is a tie. The judge raises
    HfkitError where a question is longer than its context.
    """
    letters = [subject.tokenizer(letter, add_special_tokens=False).input_ids for letter in "AB"]

    def look(matches: Sequence[Match], first: str, second: str) -> list[float]:
        """1 for each match whose reply shown first it prefers."""
        questions = [
            QUESTION.format(prompt=conversation_text(m.prompt), first=getattr(m, first), second=getattr(m, second))
            for m in matches
        ]
        asked = [subject.encode([{"role": "user", "content": question}]) for question in questions]
        longest = max(map(len, asked))
        if subject.context and longest >= subject.context:
            raise HfkitError(
                f"{longest} tokens of two replies to a prompt pass the context of the judge, {subject.context}: "
                "lower max_prompt_length or response_length"
            )
        judged = subject.model, subject.tokenizer
        a, b = (
            [float(one.logprobs.sum()) for one in likelihoods(*judged, asked, replies, batch_size=batch_size)]
            for replies in ([letter] * len(asked) for letter in letters)
        )
        return [float(1 + np.sign(x - y)) / 2 for x, y in zip(a, b, strict=True)]

    def judge(matches: Sequence[Match]) -> list[Verdict]:
        keys = [hash_of([subject.identity, m.prompt, m.a, m.b]) for m in matches]
        missing = [place for place, key in enumerate(keys) if key not in kept]
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
        for batch in progress(batches, f"{subject.name}: verdicts", batch_size, len(matches)):
            part = [matches[place] for place in batch]
            looks = zip(look(part, "a", "b"), look(part, "b", "a"), strict=True)
            kept.add({keys[place]: {"firsts": firsts} for place, firsts in zip(batch, looks, strict=True)})
        return [verdict_of(*kept[key]["firsts"]) for key in keys]

    return judge


def verdict_of(forward: float, backward: float) -> Verdict:
    """The verdict of two looks: `a` shown first, then `b`."""
    return Verdict(float(1 + np.sign(forward - backward)) / 2, (forward, backward))


def by_person(kept: Lines, seed: int) -> Judge:
    """A person at the terminal, who does not see which model wrote what; the matches come in a shuffled order.

    What was answered is kept at once, so that one can stop at any time and go on later.
    """

    def judge(matches: Sequence[Match]) -> list[Verdict]:
        keys = [hash_of(["person", m.prompt, m.a, m.b]) for m in matches]
        random = np.random.default_rng(seed)
        order, turned = random.permutation(len(matches)), random.random(len(matches)) < 0.5
        missing = [place for place in order if keys[place] not in kept]
        for number, place in enumerate(missing):
            m, swap = matches[place], bool(turned[place])
            first, second = (m.b, m.a) if swap else (m.a, m.b)
            text = f"\n[{len(order) - len(missing) + number + 1}/{len(order)}]\n{conversation_text(m.prompt)}"
            print(printable(f"{text}\n\n--- A ---\n{first}\n\n--- B ---\n{second}\n"))
            kept.add({keys[place]: {"swapped": swap, "first": ask(len(missing) - number)}})
        said = [kept[key] for key in keys]
        return [Verdict(1 - s["first"] if s["swapped"] else s["first"], (s["first"],)) for s in said]

    return judge


def ask(left: int) -> float:
    """1 for A, 0 for B, 0.5 for a tie.

    Raises:
        HfkitError: q, or the input has ended.
    """
    while True:
        try:
            answer = input("Which is better? [a, b, t: a tie, q: stop here] ").strip().lower()
        except EOFError:
            answer = "q"
        if answer == "q":
            raise HfkitError(f"stopped with {left} to go: what was judged is kept, and the same command goes on")
        if answer in ("a", "b", "t"):
            return {"a": 1.0, "b": 0.0, "t": 0.5}[answer]


def conversation_text(prompt: str | Messages) -> str:
    """A conversation as text, each turn after its role."""
    return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in as_messages(prompt))
