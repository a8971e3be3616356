"""Reward functions that the tests name in configs."""

import random

import numpy as np


def length(prompts, replies, **columns) -> list[float]:
    """A reward function that needs no model."""
    return [float(len(reply)) for reply in replies]


def names(prompts, replies, answer, rank) -> list[float]:
    """A reward function that reads the data's columns: 1 if the prompt matches the row's answer."""
    return [
        float(f"What does {one['name']} like?" == prompt and own_rank >= 0)
        for prompt, one, own_rank in zip(prompts, answer, rank, strict=True)
    ]


def drawn(prompts, replies, **columns) -> list[float]:
    """A reward function that draws from the generators of Python and NumPy."""
    return [len(reply) + random.random() + np.random.standard_normal() for reply in replies]


def constant(prompts, replies, **columns) -> list[float]:
    """A reward function that tells no response from another."""
    return [0.1] * len(replies)


def careless(prompts, replies, answer) -> list[float]:
    raise KeyError("colour")


def is_wanted(prompts, replies, wanted):
    """A judge that reads a column."""
    return [float(reply == right) for reply, right in zip(replies, wanted, strict=True)]


def last_word(response):
    """The answer of a response, for `hfkit sample --vote`."""
    return response.split()[-1] if response.split() else None
