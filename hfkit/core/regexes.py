"""Recognizes regular expressions that come with a model and could take exponential time (catastrophic backtracking)."""

import re

LONGEST_REGEX = 16384
MOST_REPEATS = 64
"""Of the characters and the unbounded repeats of an expression; those of tokenizers that exist have at most 20."""
TOKEN = re.compile(
    r"""\\.                       # an escaped character
    | \[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]  # a class of characters, whose members mean themselves
    | \(\?\#[^)]*\)               # a comment
    | \((?:\?(?:[:=!>|]|<[=!]|P?<\w+>|[a-zA-Z-]+:?))?  # a group opens
    | \)
    | [*+?][?+]? | \{\d*(?:,\d*)?\}[?+]?  # a repeat
    | \| | .""",
    re.S | re.X,
)
UNBOUNDED = re.compile(r"[*+][?+]?|\{\d*,\}[?+]?")
FEW = 16
"""A group that is repeated at most so often, as in `(...){1,3}`, is not one that is repeated without a bound."""


def regex_fault(pattern: str) -> str | None:
    """Return why a regular expression may take exponential time, or None.

    A group that holds a repeat or alternatives, and is itself repeated without a bound, can match a text in
    exponentially many ways: `(a+)+`, `(a|a)*`. No tokenizer that is known to us, and no adapter, needs one.
    """
    if len(pattern) > LONGEST_REGEX:
        return f"has {len(pattern)} characters, more than {LONGEST_REGEX}"
    groups, repeats, closed = [False], 0, False  # whether each open group, and the one that ended last, is ambiguous
    for token in TOKEN.findall(pattern):
        if token.startswith("("):
            if not token.startswith("(?#"):
                groups.append(False)
            closed = False
        elif token == ")":
            closed = groups.pop() if len(groups) > 1 else False
            groups[-1] |= closed
        elif is_unbounded(token):
            if closed:
                return "repeats a group that holds repeats or alternatives"
            groups[-1], repeats = True, repeats + 1
        else:
            groups[-1] |= token == "|" and len(groups) > 1
            closed = False
    return f"has {repeats} unbounded repeats, more than {MOST_REPEATS}" if repeats > MOST_REPEATS else None


def is_unbounded(token: str) -> bool:
    """Return whether a part of a regular expression is a repeat without a bound, or with a large one."""
    if UNBOUNDED.fullmatch(token):
        return True
    count = re.fullmatch(r"\{(\d*)(?:,(\d*))?\}[?+]?", token)
    return count is not None and int((count[2] or count[1] or "0")[:9]) > FEW
