"""Removes the prompt from responses that begin with it, so that it occurs once."""

from functools import partial

from datasets import Dataset

from hfkit.data.caching import map_rows
from hfkit.data.conversations import REPLY_COLUMNS
from hfkit.data.message_texts import TEXTS


def without_repeated_prompts(rows: Dataset) -> tuple[Dataset, list[str]]:
    """Return the rows with the prompt removed from responses that begin with it, and the changed columns.

    Responses are changed only if each of them, in all rows, begins with the prompt and continues after it.
    """
    columns = [name for name in REPLY_COLUMNS if rows.features.get(name) in TEXTS]
    if rows.features.get("prompt") not in TEXTS or not columns or not all(map(partial(is_repeated, columns), rows)):
        return rows, []
    return map_rows(rows, partial(cut_prompt, columns=columns)), columns


def is_repeated(columns: list[str], row: dict) -> bool:
    """Return whether all responses of a row begin with its prompt, at the end of a word."""
    prompt, replies = row["prompt"], [row[name] for name in columns]
    return bool(prompt and " " in prompt.strip()) and all(
        reply and reply.startswith(prompt) and reply[len(prompt) :].strip() and not cuts_word(prompt, reply)
        for reply in replies
    )


def cuts_word(prompt: str, reply: str) -> bool:
    """Return whether the prompt would end within a word of the response."""
    return prompt[-1].isalnum() and reply[len(prompt)].isalnum()


def cut_prompt(row: dict, columns: list[str]) -> dict:
    """Return the responses of a row without its prompt and white space after it."""
    return {name: row[name][len(row["prompt"]) :].lstrip() for name in columns}
