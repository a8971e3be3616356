"""Judges that choose the better of two responses: a reward, a language model, or a person."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hfkit.core.console import printable
from hfkit.core.errors import HfkitError
from hfkit.core.files import hash_of
from hfkit.core.progress import track_progress
from hfkit.data.messages import Messages, readable_turns
from hfkit.evaluation.replies import Subject
from hfkit.evaluation.results_file import ResultsFile
from hfkit.models.generation import likelihoods

QUESTION = Path(__file__).with_name("question.txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Match:
    """The texts of two different responses to one prompt, and further columns of the prompt's row."""

    prompt: str | Messages
    a: str
    b: str
    columns: dict


@dataclass(frozen=True)
class Verdict:
    """Which response of a match is better.

    Args:
        result: 1 if response `a` is better, 0 if `b` is, 0.5 for a tie.
        firsts: for each time that the judge saw both responses: 1 if it preferred the one shown first, 0 if the other,
            0.5 for a tie; () for a judge that reads one response at a time.
    """

    result: float
    firsts: tuple[float, ...] = ()


Judge = Callable[[Sequence[Match]], list[Verdict]]
Score = Callable[[list, list[str], list[dict]], Sequence[float]]
"""Scores responses one by one, given their prompts and the columns of their rows."""


def score_judge(score: Score) -> Judge:
    """Return a judge that scores responses one by one, by `score(prompts, responses, columns)`; the higher one wins."""

    def judge(matches: Sequence[Match]) -> list[Verdict]:
        sides = [[m.a for m in matches], [m.b for m in matches]]
        prompts, columns = [m.prompt for m in matches], [m.columns for m in matches]
        a, b = (np.asarray(score(prompts, side, columns), dtype=float) for side in sides)
        return [Verdict(float(result)) for result in (1 + np.sign(a - b)) / 2]

    return judge


def model_judge(subject: Subject, results: ResultsFile, batch_size: int) -> Judge:
    """Return a judge that asks a language model for the letter of the better response, in both orders (arXiv
    2306.05685).

    The likelier letter is the answer; contradictory answers are a tie. The judge raises HfkitError if a question does
    not fit into the model's context.
    """
    letters = [subject.tokenizer(letter, add_special_tokens=False).input_ids for letter in "AB"]

    def compare(matches: Sequence[Match], first: str, second: str) -> list[float]:
        """Return, for each match, 1 if the response shown first is preferred, 0 if the other is, 0.5 for a tie."""
        questions = [
            QUESTION.format(prompt=conversation_text(m.prompt), first=getattr(m, first), second=getattr(m, second))
            for m in matches
        ]
        prompts = [subject.encode([{"role": "user", "content": question}]) for question in questions]
        longest = max(map(len, prompts))
        if subject.context and longest >= subject.context:
            raise HfkitError(
                f"a prompt with two responses takes {longest} tokens, but the judge's context is {subject.context}: "
                "lower max_prompt_length or response_length"
            )
        judge_model = subject.model, subject.tokenizer
        a, b = (
            [float(one.logprobs.sum()) for one in likelihoods(*judge_model, prompts, replies, batch_size=batch_size)]
            for replies in ([letter] * len(prompts) for letter in letters)
        )
        return [float(1 + np.sign(x - y)) / 2 for x, y in zip(a, b, strict=True)]

    def judge(matches: Sequence[Match]) -> list[Verdict]:
        keys = [hash_of([subject.identity, m.prompt, m.a, m.b]) for m in matches]
        missing = [index for index, key in enumerate(keys) if key not in results]
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
        for batch in track_progress(batches, f"{subject.name}: verdicts", batch_size, len(matches)):
            part = [matches[index] for index in batch]
            both_orders = zip(compare(part, "a", "b"), compare(part, "b", "a"), strict=True)
            results.add({keys[index]: {"firsts": firsts} for index, firsts in zip(batch, both_orders, strict=True)})
        return [verdict_of(*results[key]["firsts"]) for key in keys]

    return judge


def verdict_of(forward: float, backward: float) -> Verdict:
    """Return the verdict of two comparisons: `a` shown first, then `b`."""
    return Verdict(float(1 + np.sign(forward - backward)) / 2, (forward, backward))


def human_judge(results: ResultsFile, seed: int) -> Judge:
    """Return a judge that asks the person at the terminal, in shuffled order, without showing the models' names.

    Each answer is saved at once, so that the person can stop at any time and resume later.
    """

    def judge(matches: Sequence[Match]) -> list[Verdict]:
        keys = [hash_of(["person", m.prompt, m.a, m.b]) for m in matches]
        random = np.random.default_rng(seed)
        order, swapped = random.permutation(len(matches)), random.random(len(matches)) < 0.5
        missing = [index for index in order if keys[index] not in results]
        for number, index in enumerate(missing):
            m, swap = matches[index], bool(swapped[index])
            first, second = (m.b, m.a) if swap else (m.a, m.b)
            text = f"\n[{len(order) - len(missing) + number + 1}/{len(order)}]\n{conversation_text(m.prompt)}"
            print(printable(f"{text}\n\n--- A ---\n{first}\n\n--- B ---\n{second}\n"))
            results.add({keys[index]: {"swapped": swap, "first": ask_verdict(len(missing) - number)}})
        answers = [results[key] for key in keys]
        return [Verdict(1 - one["first"] if one["swapped"] else one["first"], (one["first"],)) for one in answers]

    return judge


def ask_verdict(left: int) -> float:
    """Return the verdict of the person at the terminal: 1 for A, 0 for B, 0.5 for a tie.

    Raises:
        HfkitError: the answer is q, or the input has ended.
    """
    while True:
        try:
            answer = input("Which is better? [a, b, t: tie, q: stop] ").strip().lower()
        except EOFError:
            answer = "q"
        if answer == "q":
            raise HfkitError(f"stopped with {left} to go: the verdicts are saved, and the same command resumes")
        if answer in ("a", "b", "t"):
            return {"a": 1.0, "b": 0.0, "t": 0.5}[answer]


def conversation_text(prompt: str | Messages) -> str:
    """Return a conversation as text, each message after its role."""
    return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in readable_turns(prompt))
