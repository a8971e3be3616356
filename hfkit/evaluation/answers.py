"""Extracts the answer from a response, for self-consistency."""

import re
from collections.abc import Callable

from hfkit.core.errors import HfkitError
from hfkit.rlhf.reward_functions import import_reward_function

Extractor = Callable[[str], str | None]
"""Returns the answer in a response; None if it has none."""

FUNCTION = re.compile(r"([\w.]+|.+\.py):\w+")


def answer_extractor(given: str) -> Extractor:
    """Return the extractor that a regular expression describes, or that `package.module:f` or `FILE.py:f` names.

    A regular expression finds its last match in a response, and of this its first group if it has one.

    Raises:
        HfkitError: it is not a regular expression, or the function cannot be imported.
    """
    if FUNCTION.fullmatch(given):
        function = import_reward_function(given)
        return lambda response: None if (answer := function(response)) is None else str(answer).strip()
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise HfkitError(f"not a regular expression ({error}), and no package.module:function") from error

    def extract(response: str) -> str | None:
        matches = list(pattern.finditer(response))
        return (matches[-1][1 if pattern.groups else 0] or "").strip() or None if matches else None

    return extract
