"""Reward functions that the tests name in configs."""


def length(prompts, replies, **columns) -> list[float]:
    """The reward function that needs no model."""
    return [float(len(reply)) for reply in replies]


def names(prompts, replies, answer, rank) -> list[float]:
    """One that reads the data's columns: 1 where the prompt is the one that the row's answer belongs to."""
    return [
        float(f"What does {one['name']} like?" == prompt and place >= 0)
        for prompt, one, place in zip(prompts, answer, rank, strict=True)
    ]


def careless(prompts, replies, answer) -> list[float]:
    raise KeyError("colour")


def is_wanted(prompts, replies, wanted):
    """A judge that reads a column."""
    return [float(reply == right) for reply, right in zip(replies, wanted, strict=True)]


def last_word(response):
    """The answer of a response, for `hfkit sample --vote`."""
    return response.split()[-1] if response.split() else None
